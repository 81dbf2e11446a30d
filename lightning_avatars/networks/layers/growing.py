"""What networks share that grow while they train: a level from 0, for 4 x 4, that fades stage after stage in.

Images keep the full resolution on the outside, so that real and made ones, penalties between them, augmentation and
metrics need not know of the level. Inside, they are as large as the level says. The two resamplings scale gradients so
that both keep lengths: a gradient penalty finds the gradient that it would find at the level's own resolution, and
through both of them a gradient stays what it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.nn.functional import avg_pool2d


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # noqa: ANN401
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradient * ctx.factor, None


def enlarge(image: Tensor, resolution: int) -> Tensor:
    """Repeat pixels until an image has this height and width."""
    times = resolution // image.shape[2]
    if times == 1:
        return image
    n, c, h, w = image.shape
    scaled: Tensor = ScaleGradient.apply(image, 1 / times)  # then 20 times as fast as interpolation of few channels
    return scaled[:, :, :, None, :, None].expand(n, c, h, times, w, times).reshape(n, c, resolution, resolution)


def shrink(image: Tensor, resolution: int) -> Tensor:
    """Average pixels until an image has this height and width."""
    times = image.shape[2] // resolution
    if times == 1:
        return image
    if times == 2:
        small = avg_pool2d(image, 2)
    else:  # four times as fast where many pixels make one
        small = image.reshape(*image.shape[:2], resolution, times, resolution, times).mean((3, 5))
    scaled: Tensor = ScaleGradient.apply(small, float(times))
    return scaled


@torch.compiler.disable  # type: ignore[untyped-decorator]
def stage_of(level: Tensor, last: int) -> tuple[int, bool]:
    """Tell the largest stage that a level needs, and whether that is still faded in.

    The one place where the level is read, once in a forward pass: all else is the same for each level of a stage.
    A look at a network's memory, which computes nothing, is told of the network when it has grown.
    """
    try:
        value = min(max(float(level), 0.0), float(last))
    except DataDependentOutputException:
        return last, False
    stage = math.ceil(value)
    return stage, stage > value


def fade(level: Tensor, stage: int, old: Tensor, new: Tensor) -> Tensor:
    """Mix what a stage replaces with what it makes."""
    return old + (new - old) * (level - (stage - 1)).to(new.dtype)
