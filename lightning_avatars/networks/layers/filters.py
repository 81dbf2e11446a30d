"""Low-pass filters for signals with a known band, and a leaky ReLU between two of them (Karras et al. 2021, Sec. 3, C).

Filters run as depthwise convolutions, transposed ones where they insert samples, so that no zero is ever multiplied;
separable ones run along one axis at a time. On a CPU, forward and back, in channels-last order and at 36 x 36 and
84 x 84, products with banded matrices took 3 to 4 times as long, filters of each phase that are then interleaved 7, and
one filter for both axes 1.4; sums of separable filters for a radial one took 5 to 7 times as long.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from lightning_avatars.networks.layers.resampling import Filtered

TAPS = 6  # of a filter, per sample of the lower rate


def positions(count: int, rate: float) -> Tensor:
    """Where ``count`` samples lie whose middle is at 0, in units of length, float64."""
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) / rate


def kaiser_window(taps: int, half_width: float, rate: float) -> Tensor:
    """Window that makes a filter's transition band 2 x ``half_width`` wide (Kaiser 1974), float64.

    Args:
        taps: Length of the filter in samples.
        half_width: Half the width of the transition band, in cycles per unit length.
        rate: Samples per unit length.
    """
    attenuation = 2.285 * (taps - 1) * 2 * math.pi * 2 * half_width / rate + 7.95  # in dB
    excess = max(attenuation - 21, 0.0)
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else 0.5842 * excess**0.4 + 0.07886 * excess
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)


def lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """Design a windowed sinc of sum 1, float64, for one axis.

    Args:
        taps: Length of the filter in samples.
        cutoff: Frequency that is halved, in cycles per unit length.
        half_width: Half the width of the transition band, in cycles per unit length.
        rate: Samples per unit length.
    """
    at, window = positions(taps, rate), kaiser_window(taps, half_width, rate)
    response = torch.sinc(2 * cutoff * at) * window
    return response / response.sum()


def radial_lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """Design a windowed jinc of sum 1, taps x taps, float64: it treats all directions alike.

    Args:
        taps: Height and width of the filter in samples, even.
        cutoff: Frequency that is halved, in cycles per unit length.
        half_width: Half the width of the transition band, in cycles per unit length.
        rate: Samples per unit length.
    """
    at, window = positions(taps, rate), kaiser_window(taps, half_width, rate)
    radius = torch.hypot(at[:, None], at)  # never 0, for no tap of an even number is in the middle
    response: Tensor = torch.special.bessel_j1(2 * math.pi * cutoff * radius) / radius * torch.outer(window, window)
    return response / response.sum()


def upsample(x: Tensor, taps: Tensor, factor: int, crop: int = 0) -> Tensor:
    """Insert ``factor - 1`` samples after each and filter along both axes; outside of ``x`` all is zero.

    Args:
        x: Images, N C H W.
        taps: A filter for one axis, of sum ``factor`` to keep the level.
        factor: Samples out for one in.
        crop: Samples cut off at each edge of the ``factor (H - 1) + len(taps)`` that there are.
    """
    x = Filtered.apply(x, taps[None], (1, factor), (0, crop), True)
    x = Filtered.apply(x, taps[:, None], (factor, 1), (crop, 0), True)
    return x


def downsample(x: Tensor, taps: Tensor, factor: int) -> Tensor:
    """Filter along both axes and keep every ``factor``-th sample, where the whole filter lies on ``x``.

    Args:
        x: Images, N C H W, of ``factor (n - 1) + len(taps)`` pixels along each axis for n that go out.
        taps: A filter for one axis, or one for both, height x width.
        factor: Samples in for one out.
    """
    if taps.ndim == 2:
        x = Filtered.apply(x, taps, factor, 0, False)
        return x
    x = Filtered.apply(x, taps[None], (1, factor), 0, False)
    x = Filtered.apply(x, taps[:, None], (factor, 1), 0, False)
    return x


class FilteredLeakyReLU(nn.Module):
    """Leaky ReLU at twice the higher rate, so that the harmonics it makes can be filtered out again.

    Images are centred: what comes out lies in the middle of what comes in.

    Args:
        size_in: Height and width of the images that come in.
        size_out: Height and width of those that go out.
        rates: Samples per unit length before and after.
        cutoffs: Cutoff frequencies of the filters before and after.
        half_widths: Halves of their transition bands.
        radial: Whether the second filter treats all directions alike.
    """

    first: Tensor
    second: Tensor

    def __init__(
        self,
        size_in: int,
        size_out: int,
        rates: tuple[int, int],
        cutoffs: tuple[float, float],
        half_widths: tuple[float, float],
        radial: bool = False,
    ) -> None:
        super().__init__()
        rate = 2 * max(rates)
        self.up, self.down = rate // rates[0], rate // rates[1]
        between = self.down * (size_out - 1) + TAPS * self.down
        spare = self.up * (size_in - 1) + TAPS * self.up - between
        if spare < 0 or spare % 2:
            raise ValueError(f"{size_in} pixels at rate {rates[0]} don't cover {size_out} at rate {rates[1]}, centred")
        self.crop = spare // 2
        design = radial_lowpass if radial else lowpass
        first = lowpass(TAPS * self.up, cutoffs[0], half_widths[0], rate) * self.up
        second = design(TAPS * self.down, cutoffs[1], half_widths[1], rate) * (2**0.5 if radial else 2**0.25)
        self.register_buffer("first", first.float(), persistent=False)
        self.register_buffer("second", second.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(upsample(x, self.first, self.up, self.crop), 0.2, inplace=True)
        return downsample(x, self.second, self.down)  # whose filter holds activate's gain
