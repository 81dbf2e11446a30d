"""Images continued beyond their edges by their reflection.

Torch's own reflection has no deterministic gradient on a GPU, and on a CPU one that takes three times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class Reflection(torch.autograd.Function):
    """The reflection of all four edges; its gradient is folded back by sums of slices, in one order always."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: int) -> Tensor:  # noqa: ANN401
        ctx.margin = margin
        return pad(x, (margin,) * 4, "reflect")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        columns = fold(gradient.mT, ctx.margin).mT
        return fold(columns, ctx.margin), None


def fold(x: Tensor, margin: int) -> Tensor:
    """Add the first and last rows of N C H W to those that they reflect."""
    inner = x[:, :, margin:-margin].clone()
    inner[:, :, 1 : margin + 1] += x[:, :, :margin].flip(2)
    inner[:, :, -margin - 1 : -1] += x[:, :, -margin:].flip(2)
    return inner


class ReflectionPad2d(nn.Module):
    """Continue images beyond each edge by their reflection, the same on every device in every run.

    Args:
        margin: Rows and columns at each edge; images must be larger than this.
    """

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) <= self.margin:
            raise ValueError(
                f"{x.shape[2]} x {x.shape[3]} pixels are too few to be reflected over {self.margin}: use larger images"
            )
        padded: Tensor = Reflection.apply(x, self.margin)
        return padded
