"""LeCam regularisation, for training on little data (Tseng et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.metrics.processes import add_up
from lightning_avatars.networks.base import Verdict
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class LeCam(Term):
    """Keep logits of real images near the mean of made ones, and the other way round (Tseng et al. 2021, Eq. 4).

    Means are running ones of the turns before, over all processes and scales, freed of their start at zero; in the
    first turn they are zero.

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
        decay: Share of the old means that is kept with each evaluation.
    """

    player = "discriminator"

    means: Tensor  # of real and made logits, and the share of them that is not the start's
    tally: Tensor  # sums of real and made logits of the chunks of this turn, and their numbers

    def __init__(self, weight: float | Schedule = 0.3, every: int = 1, decay: float = 0.99) -> None:
        super().__init__(weight, every)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a share in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("means", torch.zeros(3))
        self.register_buffer("tally", torch.zeros(2, 2), persistent=False)

    def forward(self, step: Step) -> Tensor:
        real, made = (flat(verdict) for verdict in (step.real_verdict, step.fake_verdict))
        with torch.no_grad():
            self.tally += torch.stack([torch.stack([x.sum(), x.new_tensor(x.numel())]) for x in (real, made)])
        mean_real, mean_made = self.means[:2].clone() / self.means[2].clamp(min=1e-8)
        loss: Tensor = (real - mean_made).square().mean() + (made - mean_real).square().mean()
        return loss

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        add_up(self.tally)
        found = self.tally[:, 0] / self.tally[:, 1]
        self.means.lerp_(torch.cat([found, found.new_ones(1)]), 1 - self.decay)
        self.tally.zero_()


def flat(verdict: Verdict) -> Tensor:
    """Join the logits of all scales."""
    return torch.cat([x.flatten() for x in verdict.logits])
