"""Distances of made images from what they should be, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class L1(Term):
    """Mean absolute difference from the target (pix2pix, Isola et al. 2017, Eq. 3; VQGAN).

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"target"})

    def forward(self, step: Step) -> Tensor:
        return (step.fake - step.target).abs().mean()


class L2(Term):
    """Mean squared difference from the target: a normal likelihood but for constants (VQGAN, Eq. 2).

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"target"})

    def forward(self, step: Step) -> Tensor:
        return (step.fake - step.target).square().mean()
