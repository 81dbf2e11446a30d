"""Convolutions to few channels equal plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from lightning_avatars.networks.layers.narrow import NarrowConv2d


@pytest.mark.parametrize(("kernel", "padding", "bias"), [(7, 0, True), (7, 3, False), (3, 1, True), (1, 0, True)])
def test_outputs_and_gradients_are_those_of_a_plain_convolution(kernel, padding, bias):
    torch.manual_seed(0)
    layer = NarrowConv2d(4, 3, kernel, padding, bias).double()
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), conv2d(x, layer.weight, layer.bias, padding=padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight, inputs = torch.randn_like(ours), [x, *layer.parameters()]
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(theirs, inputs, weight), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
