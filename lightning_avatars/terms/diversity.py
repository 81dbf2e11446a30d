"""Diversity: latent vectors that differ should give images that differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.adversarial import Adversarial
    from lightning_avatars.families.step import Step


class ModeSeeking(Term):
    """Distance of two latent vectors over that of their images (Mao et al. 2019, Eq. 2), for the generator.

    Distances are mean absolute differences, and labels those of the batch. Departure: the ratio is taken for each pair
    of images and not once for a batch, so that chunks and processes add up.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 1.
        every: Turns between evaluations.
        floor: Added to the ratio of image to latent distance before it is inverted.
    """

    player = "generator"
    needs = frozenset({"latent"})

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, floor: float = 1e-5) -> None:
        super().__init__(weight, every)
        if floor <= 0:
            raise ValueError(f"floor must be above 0, for images may be equal, got {floor}")
        self.floor = floor

    def forward(self, step: Step) -> Tensor:
        module = cast("Adversarial", step.module)
        generator, prior = module.generator, module.prior
        other = step.draws.take("mode_seeking", lambda n, g: prior.draw(n, generator.latent_dim, g))
        images, latents = distance(step.made, generator(other, step.labels).float()), distance(step.latent, other)
        return (latents / (images + self.floor * latents).clamp(min=1e-12)).mean()  # 0 for codes that came up twice


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each pair, N."""
    return (a - b).abs().flatten(1).mean(1)
