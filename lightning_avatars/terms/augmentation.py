"""The strength of adaptive augmentation, steered by how much the discriminator overfits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.augment.adaptive import AdaptiveAugment
from lightning_avatars.metrics.processes import add_up
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


class AdaptiveStrength(Term):
    """Keep the mean sign of real logits at a target by moving ``augment.p`` (Karras et al. 2020, Sec. 3.1).

    A discriminator that tells all training images from made ones, r = E[sign(D(x))] near 1, has begun to learn them by
    heart: p goes up. It goes down where r is below the target. For the discriminator's terms; logs
    ``discriminator/sign`` and ``augment/p``.

    Args:
        target: The mean sign that is kept, from -1 to 1.
        images: Images seen while p goes from 0 to 1.
        batches: Batches whose signs are averaged before p moves.
        weight: 0 turns it off, and p stays.
    """

    player = "discriminator"
    signs: Tensor
    chunks: Tensor

    def __init__(
        self, target: float = 0.6, images: int = 500_000, batches: int = 4, weight: float | Schedule = 1.0
    ) -> None:
        super().__init__(weight)
        if not -1 < target < 1:
            raise ValueError(f"target is a mean of signs, between -1 and 1, got {target}")
        if images < 1 or batches < 1:
            raise ValueError(f"images and batches must be at least 1, got {images} and {batches}")
        self.target, self.images, self.batches = target, images, batches
        self.register_buffer("signs", torch.zeros(2))  # their sum and their number, of all processes
        self.register_buffer("chunks", torch.zeros(2), persistent=False)  # those of this turn, of this process

    def check(self, module: Game) -> None:
        if not isinstance(module.augment, AdaptiveAugment):
            given = "none" if module.augment is None else type(module.augment).__name__
            raise ValueError(
                f"it moves the p of an AdaptiveAugment, but augment is {given}: give augment: "
                "lightning_avatars.augment.adaptive.AdaptiveAugment, or leave the term out"
            )
        if sum(isinstance(term, AdaptiveStrength) for term in module.modules()) > 1 or "augment.p" in module.scheduled:
            raise ValueError("augment.p is moved by another term or schedule too: leave one of them out")

    @torch.no_grad()
    def forward(self, step: Step) -> None:
        for logits in step.real_verdict.logits:  # the sign of nan is 0: p stays a number
            self.chunks += torch.stack([logits.sign().sum(), torch.full_like(logits, 1).sum()])

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        add_up(self.chunks)
        self.signs += self.chunks
        self.chunks.zero_()
        excess = self.signs[0] / self.signs[1] - self.target
        p = step.module.get_buffer("augment.p")
        if (step.module.turns["discriminator"] + 1) % self.batches == 0:
            pace = self.batches * step.draws.total / self.images
            p.add_(pace * excess.sign()).clamp_(0, 1)
            self.signs.zero_()
        step.module.latest |= {"discriminator/sign": excess + self.target, "augment/p": p.clone()}


def check_moved(module: Game) -> None:
    """Raise a ValueError where an adaptive augmentation begins at p = 0 and nothing ever moves it."""
    moved = "augment.p" in module.scheduled or any(isinstance(term, AdaptiveStrength) for term in module.modules())
    if isinstance(module.augment, AdaptiveAugment) and module.augment.initial == 0 and not moved:
        raise ValueError(
            "augment is an AdaptiveAugment with p = 0 that nothing moves: add an AdaptiveStrength to "
            "discriminator_terms, or set its p above 0"
        )
