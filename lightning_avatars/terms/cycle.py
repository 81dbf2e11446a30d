"""What should stay as it is when pictures are translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class Cycle(Term):
    """Mean absolute difference of pictures that are translated and back (CycleGAN, Zhu et al. 2017, Eq. 2).

    So is StarGAN's reconstruction (Choi et al. 2018, Eq. 4). Departure: a mean over pictures of all domains, where
    CycleGAN adds up those of its two; this halves all of its losses alike.

    Args:
        weight: Factor of the loss, or a schedule of it; the papers' is 10.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"cycled"})

    def forward(self, step: Step) -> Tensor:
        return (step.cycled - step.real).abs().mean()


class Identity(Term):
    """Mean absolute difference of pictures from their translation into their own domain (CycleGAN, Sec. 5.2).

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is half of the cycle's.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"identity"})

    def forward(self, step: Step) -> Tensor:
        return (step.identity - step.real).abs().mean()
