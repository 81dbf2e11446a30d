"""Tiny adversarial autoencoders, the same weights every time."""

from __future__ import annotations

from typing import Any

import torch

from lightning_avatars.families.adversarial_autoencoder import AdversarialAutoencoder
from lightning_avatars.networks.layers.bottlenecks import Bottleneck, DiagonalGaussian
from lightning_avatars.networks.layers.quantizers import VectorQuantizer
from lightning_avatars.networks.patch import PatchDiscriminator
from lightning_avatars.networks.vqgan import VQGAN, KLAutoencoder
from lightning_avatars.objectives.adversarial import Hinge, NonSaturating
from lightning_avatars.terms.balance import AdaptiveWeight
from lightning_avatars.terms.bottleneck import Commitment, Rate
from lightning_avatars.terms.features import FeatureReconstruction
from lightning_avatars.terms.reconstruction import L1


def tiny_vqgan(label_dim: int = 0, **arguments: Any) -> VQGAN:
    quantizer = VectorQuantizer(codebook=16, width=4, patience=4)
    return VQGAN(8, 3, label_dim, quantizer, **{"width": 8, "multipliers": (1, 2)} | arguments)


def tiny_kl(label_dim: int = 0, bottleneck: Bottleneck | None = None, **arguments: Any) -> KLAutoencoder:
    bottleneck = bottleneck or DiagonalGaussian(4)
    return KLAutoencoder(8, 3, label_dim, bottleneck, **{"width": 8, "multipliers": (1, 2)} | arguments)


def tiny_patches(label_dim: int = 0, **arguments: Any) -> PatchDiscriminator:
    return PatchDiscriminator(8, 3, label_dim, **{"width": 8, "layers": 1} | arguments)


def vqgan_game(conditional: bool = False, **arguments: Any) -> AdversarialAutoencoder:
    """VQGAN with an adaptive weight."""
    torch.manual_seed(0)
    label_dim = 3 if conditional else 0
    arguments = {
        "generator": tiny_vqgan(label_dim),
        "discriminator": tiny_patches(label_dim),
        "objective": Hinge(),
        "generator_terms": {"l1": L1(), "commitment": Commitment()},
        "balance": AdaptiveWeight("decoder.output"),
        "adversarial_weight": 0.8,
        "generator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.5, 0.9)),
        "discriminator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.5, 0.9)),
        "average_half_life": 100,
    } | arguments
    return AdversarialAutoencoder(conditional=conditional, **arguments)


def vaegan_game(**arguments: Any) -> AdversarialAutoencoder:
    """VAE-GAN, whose encoder does not learn from the adversary."""
    torch.manual_seed(0)
    arguments = {
        "generator": tiny_kl(),
        "discriminator": tiny_patches(),
        "objective": NonSaturating(),
        "samples": 0.5,
        "encoder_plays": False,
        "generator_terms": {"features": FeatureReconstruction(), "rate": Rate()},
        "generator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.5, 0.9)),
        "discriminator_optimizer": lambda p: torch.optim.Adam(p, 1e-3, (0.5, 0.9)),
        "average_half_life": 100,
    } | arguments
    return AdversarialAutoencoder(**arguments)
