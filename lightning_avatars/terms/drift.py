"""A leash on the level of the discriminator's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class Drift(Term):
    """Mean square of the logits of real images (Karras et al. 2018, Sec. A.1); scales are summed.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 0.001.
        every: Turns between evaluations.
    """

    player = "discriminator"

    def __init__(self, weight: float | Schedule = 0.001, every: int = 1) -> None:
        super().__init__(weight, every)

    def forward(self, step: Step) -> Tensor:
        return torch.stack([x.square().mean() for x in step.real_verdict.logits]).sum()
