"""Networks of no width are refused by name, before a layer divides by it."""

from __future__ import annotations

import pytest

from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_avatars.networks.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from lightning_avatars.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from lightning_avatars.networks.resnet import ResNetDiscriminator, ResNetGenerator
from lightning_avatars.networks.stylegan1 import StyleGAN1Discriminator, StyleGAN1Generator
from lightning_avatars.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from lightning_avatars.networks.stylegan3 import StyleGAN3Generator

STYLES = (StyleGAN1Generator, StyleGAN2Generator, StyleGAN3Generator)
GENERATORS = (*STYLES, DCGANGenerator, ProgressiveGenerator, ResNetGenerator, R3GANGenerator)
DISCRIMINATORS = (
    DCGANDiscriminator, ProgressiveDiscriminator, ResNetDiscriminator, R3GANDiscriminator, StyleGAN1Discriminator,
    StyleGAN2Discriminator,
)  # fmt: skip
CASES = [
    *((network, name) for network in GENERATORS for name in ("latent_dim", "width", "max_width")),
    *((network, name) for network in DISCRIMINATORS for name in ("width", "max_width")),
    *((network, name) for network in STYLES for name in ("style_dim", "mapping_layers")),
    *((network, name) for network in (R3GANGenerator, R3GANDiscriminator) for name in ("blocks", "group_width")),
]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_a_size_of_0_is_refused_by_name(network, name):
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        network(32, **{name: 0})
