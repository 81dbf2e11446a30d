"""Filters of images whose borders are mirrors, as products with one matrix for all rows and one for all columns.

On CPUs that is several times as fast as convolutions of single channels, and on every device it is deterministic and
can be differentiated again and again. The operations grow with W³: 0.02 billion to enlarge and reduce one colour image
of 64 x 64, 77 billion at 1024 x 1024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

# The symmetric 9/7 pair of Cohen, Daubechies and Feauveau, the two halves of the maximally flat half-band filter of 15
# taps: what the first has made twice as large, the second makes again what it was.
UP = (
    -0.091271763114250091, -0.057543526228500182, 0.591271763114250091,
    1.115087052457000364, 0.591271763114250091, -0.057543526228500182, -0.091271763114250091,
)  # fmt: skip
DOWN = (
    0.026748757410810088, -0.016864118442874954, -0.078223266528990263, 0.266864118442874954,
    0.602949018236360348, 0.266864118442874954, -0.078223266528990263, -0.016864118442874954, 0.026748757410810088,
)  # fmt: skip


def enlarge(x: Tensor) -> Tensor:
    """Make images nearly twice as large: H x W to 2 H - 1 x 2 W - 1, the outermost pixels keep their places."""
    rows, columns = (enlarger(size, x.device, x.dtype) for size in x.shape[-2:])
    return rows.mT @ (x @ columns)


def reduce(x: Tensor) -> Tensor:
    """Make images half as large: 2 H + 7 x 2 W + 7, of which four on every side are margin, to H x W."""
    rows, columns = (reducer((size - 7) // 2, x.device, x.dtype) for size in x.shape[-2:])
    return rows.mT @ (x @ columns)


def equalize(x: Tensor, gains: Tensor) -> Tensor:
    """Amplify four bands along rows and columns; images whose gains are all one stay as they are, bit for bit.

    Args:
        x: N C H W.
        gains: N x 4, of the frequencies up to 1/8, 1/4, 1/2 and all of the highest (Karras et al. 2020, Fig. 18).
    """
    change = (gains - 1).to(x.dtype)
    for size in (x.shape[3], x.shape[2]):
        bands = equalizer(size, x.device, x.dtype)
        matrices = (change @ bands.flatten(1)).view(-1, 1, size, size)
        x = (x + x @ matrices).mT
    return x


# Constants are kept, for copying them to a device again would wait for it; never as inference tensors, which can't take
# part in training, nor as fake ones, where it is only asked how much memory a run will need.


@lru_cache
@unset_fake_temporarily()
@torch.inference_mode(False)
def enlarger(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix size x (2 size - 1)."""
    return mirrored(banded(UP, size + 4, 2 * size - 1, 2, 1, -1), size).to(device, dtype)


@lru_cache
@unset_fake_temporarily()
@torch.inference_mode(False)
def reducer(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (2 size + 7) x size."""
    return banded(DOWN, 2 * size + 7, size, 1, 2).to(device, dtype)


@lru_cache
@unset_fake_temporarily()
@torch.inference_mode(False)
def equalizer(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrices 4 x size x size of the bands, which add up to the identity."""
    return torch.stack([mirrored(banded(taps, size + 42, size), size) for taps in octaves()]).to(device, dtype)


def banded(
    taps: Sequence[float], rows: int, columns: int, row_step: int = 1, column_step: int = 1, first: int = 0
) -> Tensor:
    """Matrix rows x columns whose entry (r, c) is tap ``row_step r - column_step c + first``, or zero."""
    values = torch.tensor(taps, dtype=torch.float64)
    tap = row_step * torch.arange(rows)[:, None] - column_step * torch.arange(columns) + first
    return torch.where((tap >= 0) & (tap < len(values)), values[tap.clamp(0, len(values) - 1)], 0.0)


def mirrored(matrix: Tensor, size: int) -> Tensor:
    """Turn a matrix for padded rows into that for rows of ``size``, mirrored about their first and last pixel."""
    margin = (len(matrix) - size) // 2
    at = torch.arange(-margin, size + margin).remainder(2 * size - 2)
    at = torch.minimum(at, 2 * size - 2 - at)
    return torch.zeros(size, matrix.shape[1], dtype=matrix.dtype).index_add_(0, at, matrix)


def octaves() -> list[list[float]]:
    """Filters of the four bands, 43 taps each, by SYM2 and its mirror image (Fig. 18); they add up to the identity."""
    low = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32  # H(z) H(1/z) / 2
    high = (np.arange(7) == 3) - low
    rest, bands = np.ones(1), list[npt.NDArray[np.float64]]()
    for step in (1, 2, 4):  # split off the upper half of what is left
        bands.insert(0, np.convolve(rest, stretched(high, step)))
        rest = np.convolve(rest, stretched(low, step))
    return [np.pad(band, (43 - len(band)) // 2).tolist() for band in (rest, *bands)]


def stretched(taps: npt.NDArray[np.float64], step: int) -> npt.NDArray[np.float64]:
    """Put ``step - 1`` zeros between taps."""
    wide = np.zeros(step * (len(taps) - 1) + 1)
    wide[::step] = taps
    return wide
