"""Consistency: a discriminator should say the same of an image that is flipped or moved a little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.schedules import Schedule
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class Consistency(Term):
    """Squared difference of the logits of images and of flipped and moved ones (CR-GAN, Zhang et al. 2020, Eq. 5).

    Scales are summed. Departure: edges are repeated where an image leaves a gap, of which the papers say nothing.

    Args:
        weight: Factor of the loss, or a schedule of it; the papers' is 10.
        every: Turns between evaluations.
        shift: Images move by up to this share of their height and width.
        balanced: Look at made images too, with the same weight (bCR, Zhao et al. 2021, Algorithm 1).
    """

    player = "discriminator"

    def __init__(
        self, weight: float | Schedule = 10.0, every: int = 1, shift: float = 0.125, balanced: bool = False
    ) -> None:
        super().__init__(weight, every)
        if not 0 <= shift <= 1:
            raise ValueError(f"shift is a share of the height, from 0 to 1, got {shift}")
        self.shift, self.balanced = shift, balanced

    def forward(self, step: Step) -> Tensor:
        pairs = [("real", step.real, step.real_verdict)]
        if self.balanced:
            pairs.append(("fake", step.fake, step.fake_verdict))
        losses = []
        for name, images, verdict in pairs:
            moved = flip_and_move(images.detach(), step.draws, f"consistency/{name}", self.shift)
            given = step.given if name == "real" else step.asked
            again = step.judge(moved, f"{step.player}/{name}", given)  # augmented as the image itself was
            losses += [(a - b).square().mean() for a, b in zip(verdict.logits, again.logits, strict=True)]
        return torch.stack(losses).sum()


def flip_and_move(images: Tensor, draws: Draws, stream: str, shift: float) -> Tensor:
    """Flip half of the images and move all by up to a share of their size, by whole pixels, repeating their edges."""
    n, _, h, w = images.shape
    u = draws.uniform(stream, 3)
    rows, columns = (
        (torch.arange(size, device=images.device) + reach(u[:, i : i + 1], shift, size)).clamp(0, size - 1)
        for i, size in enumerate((h, w))
    )
    columns = torch.where(u[:, 2:] < 0.5, w - 1 - columns, columns)
    number = torch.arange(n, device=images.device)[:, None, None]
    return images[number, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def reach(u: Tensor, shift: float, size: int) -> Tensor:
    """Turn numbers in [0, 1) into whole numbers of pixels up to a share of the size, either way."""
    most = int(shift * size)
    return (u * (2 * most + 1)).long() - most
