"""Convolutions as matrix products against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_avatars.networks.layers.vectors import FromVector, ToVector

FORMATS = [torch.contiguous_format, torch.channels_last]


def outcome(layer: nn.Module, x: Tensor, seen: Tensor) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad((y * seen).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("ours", "theirs", "shape", "made"),
    [
        (ToVector(6, 10, 4), nn.Conv2d(6, 10, 4), (5, 6, 4, 4), (5, 10, 1, 1)),
        (FromVector(6, 10, 4), nn.ConvTranspose2d(6, 10, 4), (5, 6, 1, 1), (5, 10, 4, 4)),
    ],
)
def test_outputs_and_gradients_are_those_of_torchs_convolutions(ours, theirs, shape, made, memory_format):
    ours, theirs = (layer.double().to(memory_format=memory_format) for layer in (ours, theirs))
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).contiguous(memory_format=memory_format)
    seen = torch.randn(made, dtype=torch.float64, generator=generator)
    for a, b in zip(outcome(ours, x, seen), outcome(theirs, x, seen), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_channels_last_weights_give_channels_last_images_without_a_copy():
    layer = FromVector(6, 10, 4).to(memory_format=torch.channels_last)
    assert layer(torch.zeros(5, 6, 1, 1)).is_contiguous(memory_format=torch.channels_last)
    assert layer.weight.permute(0, 2, 3, 1).flatten(1).data_ptr() == layer.weight.data_ptr()
