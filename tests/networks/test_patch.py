"""Patch discriminators: what each logit sees, and what the verdicts hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_avatars.networks.patch import PatchDiscriminator


def seen_by_one_logit(network: PatchDiscriminator, size: int) -> tuple[int, int]:
    """Height and width of what changes the logit in the middle."""
    x = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    logits = network.double()(x).logits[0]
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    rows, columns = (gradient.abs().sum((0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    return tuple(int(places[-1] - places[0] + 1) for places in (rows, columns))


@pytest.mark.parametrize(("layers", "side"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_logit_judges_a_patch_of_pix2pixs_size(layers, side):
    torch.manual_seed(0)
    size = max(2 * side + 16, 32)
    network = PatchDiscriminator(size, width=2, layers=layers, max_width=4, normalization=nn.Identity)
    assert network.receptive_field == side
    assert seen_by_one_logit(network, size) == (side, side)


def test_sizes_are_pix2pixs():
    network = PatchDiscriminator(256)
    verdict = network(torch.randn(2, 3, 256, 256))
    assert verdict.logits[0].shape == (2, 1, 30, 30)
    assert [tuple(x.shape[1:]) for x in verdict.features] == [
        (64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 31, 31)
    ]  # fmt: skip
    biases = 128 + 256 + 512  # that CycleGAN's has in place of batch norm's scales and shifts
    assert sum(p.numel() for p in network.parameters()) == 2_764_737 + biases, "as the authors' code"


def test_what_was_translated_comes_before_the_image():
    network = PatchDiscriminator(256, source_channels=3)
    assert sum(p.numel() for p in network.parameters()) == 2_764_737 + 896 + 16 * 3 * 64, "as pix2pix's, 6 channels"
    assert network.stages[0][0].weight.shape == (64, 6, 4, 4)


@pytest.mark.parametrize("spectral", [False, True])
def test_every_parameter_learns_and_labels_matter(spectral):
    torch.manual_seed(0)
    network = PatchDiscriminator(16, 3, 4, width=8, layers=2, spectral=spectral)
    x, labels = torch.randn(4, 3, 16, 16), torch.eye(4)
    one, other = network.eval()(x, labels).logits[0], network(x, labels.roll(1, 0)).logits[0]
    assert one.shape == (4, 1, 2, 2) and (one - other).abs().min() > 0
    network.train()(x, labels).logits[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    network = PatchDiscriminator(16, width=8, layers=2, spectral=True, normalization=nn.Identity).eval()
    for layer in [stage[0] for stage in network.stages] + [network.output]:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("arguments", [{"layers": 4}, {"layers": -1}, {"width": 0}])
def test_discriminators_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="layers"):
        PatchDiscriminator(**{"resolution": 32} | arguments)
