"""What all translators have in common: sizes, labels, gradients, layouts, precisions."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.networks.pix2pixhd import Pix2PixHDTranslator
from lightning_avatars.networks.residual_translator import ResidualTranslator
from lightning_avatars.networks.spade import SPADETranslator
from lightning_avatars.networks.stargan import StarGANTranslator
from lightning_avatars.networks.unet import UNet

SMALL = {
    UNet: {"width": 8, "max_width": 16},
    ResidualTranslator: {"width": 4, "blocks": 2},
    Pix2PixHDTranslator: {"width": 4, "halvings": 3, "blocks": 1, "local_blocks": 1},
    SPADETranslator: {"width": 4, "hidden": 8, "lowest": 4},
    StarGANTranslator: {"width": 4, "blocks": 2},
}
CONDITIONAL = [UNet, SPADETranslator, StarGANTranslator]


def small(kind, resolution=32, **arguments):
    """A small translator of a kind, the same weights every time, with biases that are not zero."""
    torch.manual_seed(0)
    network = kind(resolution, **SMALL[kind] | arguments)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("kind", SMALL)
def test_images_are_as_large_as_sources_whatever_their_size(kind):
    network = small(kind, source_channels=5).eval()
    assert 32 % network.multiple == 0
    with torch.no_grad():
        for height, width in [(32, 32), (64, 32), (96, 64)]:
            image = network(torch.randn(2, 5, height, width))
            assert image.shape == (2, 3, height, width) and image.abs().max() <= 1
            assert image.std() > 0


@pytest.mark.parametrize("kind", SMALL)
def test_sizes_that_cannot_be_halved_are_refused_before_anything_is_computed(kind):
    network = small(kind)
    side = 32 + network.multiple // 2
    with pytest.raises(ValueError, match=rf"multiples of {network.multiple}, got 32 x {side}"):
        network(torch.randn(1, 3, 32, side))
    with pytest.raises(ValueError, match=r"data\.resolution"):
        kind(31)


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_labels_change_the_image_and_must_be_given(kind):
    network, x = small(kind, label_dim=2).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        one, other = network(x, torch.tensor([[0.0, 1], [0, 1]])), network(x, torch.tensor([[0.0, 1], [1, 1]]))
    assert torch.equal(one[0], other[0]) and (one[1] - other[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="label_dim=2"):
        network(x)


@pytest.mark.parametrize("kind", SMALL)
def test_a_gradient_reaches_every_parameter(kind):
    network = small(kind, **{"label_dim": 2} if kind in CONDITIONAL else {}).double()
    x, labels = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.rand(2, 2, dtype=torch.float64)
    weight = torch.randn_like(x)
    (network(x, labels) * weight).sum().backward()
    unreached = {name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert unreached == ({"coarse.output.1.weight", "coarse.output.1.bias"} if kind is Pix2PixHDTranslator else set())


@pytest.mark.parametrize("kind", SMALL)
def test_half_precision_and_channels_last_give_the_same_image(kind):
    network, x = small(kind).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        image = network(x)
        last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
    torch.testing.assert_close(last, image, rtol=1e-4, atol=1e-5)
    assert half.dtype == torch.float32, "tanh of float32"
    assert (half - image).square().mean().sqrt() < 0.05 * image.std() + 1e-3


@pytest.mark.parametrize("kind", [ResidualTranslator, StarGANTranslator])
def test_features_are_what_the_first_half_computes(kind):
    network, x = small(kind, source_channels=2), torch.randn(2, 2, 32, 32)
    assert network.feature_channels == [2, 4, 8, 16, 16, 16]
    seen = network.features(x, [0, 1, 3, 5])
    assert seen[0] is x and [tuple(f.shape[1:]) for f in seen[1:]] == [(4, 32, 32), (16, 8, 8), (16, 8, 8)]
    y = x
    for stage in network.stages:
        y = stage(y)
    assert torch.equal(seen[-1], y)
    for layers in ([], [6], [2, 1], [-1], [1, 1]):
        with pytest.raises(ValueError, match="from 0 to 5"):
            network.features(x, layers)


def test_a_network_without_features_says_so():
    with pytest.raises(ValueError, match="UNet shows no features"):
        small(UNet).features(torch.randn(1, 3, 32, 32), [0])
