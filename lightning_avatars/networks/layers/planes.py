"""Numbers of an image as planes of constant value beside its own (StarGAN, Choi et al. 2018, Sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_avatars.networks.layers.labels import check_labels


def with_labels(source: Tensor, labels: Tensor | None, label_dim: int) -> Tensor:
    """Join each label as a plane of its value to ``source``, N S H W; a network without labels ignores them."""
    if not label_dim:
        return source
    planes = check_labels(labels, label_dim).to(source.dtype)[:, :, None, None]
    return torch.cat([source, planes.expand(-1, -1, *source.shape[2:])], 1)
