"""Blocks of images and the 95 % intervals of scores that leaving out one block after another gives."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

BLOCKS = 10  # of the jackknife

# Student's t: the 0.975 quantile for 1 to 10 degrees of freedom
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
NORMAL = 1.959963985


def blocks_of(count: int, blocks: int = 10) -> Tensor:
    """Block of each of ``count`` images: ``i * blocks // count``; there are never more blocks than images."""
    return torch.arange(count) * min(blocks, count) // max(count, 1)


def block_slices(count: int, blocks: int = 10) -> list[slice]:
    """Images of each block, as slices."""
    blocks = min(blocks, count)
    bounds = [-(-block * count // max(blocks, 1)) for block in range(blocks + 1)]
    return [slice(first, stop) for first, stop in pairwise(bounds)]


def block_counts(count: int, blocks: int = 10) -> Tensor:
    """Number of images of each block, in float64."""
    return torch.tensor([part.stop - part.start for part in block_slices(count, blocks)], dtype=torch.float64)


def without_each(sums: Tensor) -> Tensor:
    """Sums over all blocks but one, for each block; the blocks are the first dimension."""
    return sums.sum(0) - sums


def quantile(freedom: int) -> float:
    """0.975 quantile of Student's t, to 1e-4 (above 10 degrees of freedom, the Cornish-Fisher series)."""
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    z = NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / freedom + second / freedom**2 + third / freedom**3 + fourth / freedom**4


def jackknife(leave_one_out: Tensor, value: Tensor | float) -> tuple[float, float]:
    """95 % interval of a score from its values without each block (Tukey's jackknife, Student's t).

    The score is not corrected for bias: the interval is centred on the number that is reported. It speaks of other
    samples of the same generator; the real images are taken as given.

    Args:
        leave_one_out: The score without each of B blocks, B; a single one may be a scalar.
        value: The score of all images.

    Returns:
        Lower and upper end; nan where there are fewer than 2 blocks.
    """
    blocks = leave_one_out.numel()
    if blocks < 2:
        return math.nan, math.nan
    values = leave_one_out.double()
    error = float(((blocks - 1) / blocks * (values - values.mean()).square().sum()).sqrt())
    return around(float(value), error, blocks - 1)


def mean_interval(values: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of one value per image; nan for fewer than 2."""
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    values = values.double()
    return around(float(values.mean()), float(values.std()) / math.sqrt(count), count - 1)


def around(value: float, error: float, freedom: int) -> tuple[float, float]:
    """Interval of a value with a standard error."""
    half = quantile(freedom) * error
    return value - half, value + half
