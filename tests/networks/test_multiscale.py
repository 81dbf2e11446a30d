"""Patch discriminators at several sizes: each is one alone, and sees as much of its image."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from lightning_avatars.networks.multiscale import MultiScaleDiscriminator


def seen_by_one_logit(network, scale, side):
    """Height and width of what changes the logit in the middle of a scale."""
    x = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    logits = network.double()(x).logits[scale]
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    rows, columns = (gradient.abs().sum((0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    return tuple(int(places[-1] - places[0] + 1) for places in (rows, columns))


@pytest.mark.parametrize(("scale", "side"), [(0, 70), (1, 140), (2, 280)])
def test_each_scale_judges_patches_twice_as_large_as_the_one_before(scale, side):
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(640, width=1, max_width=2, normalization=nn.Identity, scales=3)
    assert seen_by_one_logit(network, scale, 640) == (side, side)


def test_each_scale_is_a_patch_discriminator_of_the_halved_image():
    torch.manual_seed(0)
    network, x = MultiScaleDiscriminator(32, width=4, layers=1, scales=3, source_channels=2), torch.randn(2, 5, 32, 32)
    verdict = network(x)
    assert len(verdict.logits) == 3 and len(verdict.features) == 3 * 2
    for number, alone in enumerate(network.scales):
        expected = alone(avg_pool2d(x, 1 << number))
        torch.testing.assert_close(verdict.logits[number], expected.logits[0])
        for ours, theirs in zip(verdict.features[2 * number : 2 * number + 2], expected.features, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_sizes_are_pix2pixhds():
    """Three 70 x 70 PatchGANs of a map of 35 classes, its boundaries and an image, save biases that norms take away."""
    with torch.device("meta"):
        network = MultiScaleDiscriminator(1024, source_channels=36, scales=3)
    convolutions = 4 * 4 * (39 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(p.numel() for p in network.parameters()) == 3 * (convolutions + 64 + 1)


def test_every_parameter_learns_at_the_level_where_it_judges():
    torch.manual_seed(0)
    network, x = MultiScaleDiscriminator(32, 3, 2, 4, layers=1, grows=True), torch.randn(2, 3, 32, 32)
    assert dict(network.named_buffers())["level"] == 1
    torch.stack([y.square().sum() for y in network(x, torch.eye(2)).logits]).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    network.zero_grad()
    network.level.fill_(0)
    network(x, torch.eye(2)).logits[0].square().sum().backward()
    assert all(p.grad is None for p in network.scales[0].parameters())
    assert all(p.grad.any() for p in network.scales[1].parameters())


@pytest.mark.parametrize("arguments", [{"scales": 0}, {"scales": 4}, {"scales": 1, "grows": True}, {"resolution": 65}])
def test_scales_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="scales"):
        MultiScaleDiscriminator(**{"resolution": 64, "width": 2} | arguments)
