"""Clipping of the critic's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class WeightClip(Term):
    """Keep each of the discriminator's weights in a box after every step (WGAN, Algorithm 1).

    Args:
        limit: Half the width of the box.
        weight: 0 turns the clipping off.
    """

    player = "discriminator"

    def __init__(self, limit: float = 0.01, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)
        if limit <= 0:
            raise ValueError(f"limit must be above 0, got {limit}")
        self.limit = limit

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        torch._foreach_clamp_min_(list(step.module.discriminator.parameters()), -self.limit)
        torch._foreach_clamp_max_(list(step.module.discriminator.parameters()), self.limit)
