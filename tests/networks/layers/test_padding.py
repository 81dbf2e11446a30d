"""Reflection: torch's own, to the bit where there is nothing to sum, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from lightning_avatars.networks.layers.padding import ReflectionPad2d


@pytest.mark.parametrize("margin", [1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_gradients_are_those_of_torch(margin, layout):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 7).to(memory_format=layout).requires_grad_()
    ours, theirs = ReflectionPad2d(margin)(x), pad(x, (margin,) * 4, "reflect")
    assert torch.equal(ours, theirs) and ours.is_contiguous(memory_format=layout)
    weight = torch.randn_like(ours)
    (mine,), (other,) = torch.autograd.grad(ours, x, weight), torch.autograd.grad(theirs, x, weight)
    torch.testing.assert_close(mine, other)


def test_second_derivatives_are_right():
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    layer = ReflectionPad2d(2)
    assert torch.autograd.gradgradcheck(lambda x: layer(x) ** 3, x) and torch.autograd.gradcheck(layer, x)


def test_images_too_small_to_be_reflected_are_refused():
    with pytest.raises(ValueError, match="3 x 8 pixels are too few"):
        ReflectionPad2d(3)(torch.zeros(1, 1, 3, 8))
