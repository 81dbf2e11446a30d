"""Labels as planes beside an image."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.networks.layers.planes import with_labels


def test_each_label_is_a_plane_of_its_value():
    x, labels = torch.rand(2, 3, 4, 5), torch.tensor([[0.0, 1.0], [0.25, 0.0]])
    joined = with_labels(x, labels, 2)
    assert torch.equal(joined[:, :3], x)
    assert torch.equal(joined[:, 3:], labels[:, :, None, None].expand(2, 2, 4, 5))
    assert with_labels(x, None, 0) is x
    with pytest.raises(ValueError, match="label_dim=2"):
        with_labels(x, None, 2)
