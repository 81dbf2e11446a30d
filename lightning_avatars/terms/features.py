"""Likeness of made images to real ones as the discriminator sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


def features_of(step: Step) -> list[tuple[Tensor, Tensor]]:
    """Pair the discriminator's features of fakes with those of real images, which get no gradients.

    Raises:
        ValueError: Its verdicts have none.
    """
    fakes, reals = step.fake_verdict.features, step.real_verdict.features
    if not fakes:
        raise ValueError(
            f"{type(step.module.discriminator).__name__} says nothing of its features: use one that does, such as "
            "lightning_avatars.networks.patch.PatchDiscriminator, or leave the term out"
        )
    return [(fake.float(), real.detach().float()) for fake, real in zip(fakes, reals, strict=True)]


class FeatureMatching(Term):
    """Mean absolute difference of the features of all layers (pix2pixHD, Wang et al. 2018, Eq. 4), scales included.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 10.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"target"})

    def forward(self, step: Step) -> Tensor:
        return torch.stack([(fake - real).abs().mean() for fake, real in features_of(step)]).sum()


class FeatureReconstruction(Term):
    """Mean squared difference of one layer's features: a normal likelihood there (VAE-GAN, Larsen et al. 2016, Eq. 7).

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
        layer: Number of the layer in the verdict's features, from 0; -1 is the last.
    """

    player = "generator"
    needs = frozenset({"target"})

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, layer: int = -1) -> None:
        super().__init__(weight, every)
        self.layer = layer

    def forward(self, step: Step) -> Tensor:
        pairs = features_of(step)
        if not -len(pairs) <= self.layer < len(pairs):
            raise ValueError(
                f"FeatureReconstruction compares layer {self.layer}, but verdicts have {len(pairs)} layers' features: "
                f"give a layer from 0 to {len(pairs) - 1}, or -1 for the last"
            )
        fake, real = pairs[self.layer]
        return (fake - real).square().mean()
