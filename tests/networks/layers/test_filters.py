import math

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, leaky_relu

from lightning_avatars.networks.layers.filters import (
    FilteredLeakyReLU,
    downsample,
    kaiser_window,
    lowpass,
    positions,
    radial_lowpass,
    upsample,
)


def response(taps: torch.Tensor, rate: float, frequencies: torch.Tensor) -> torch.Tensor:
    """Real frequency response of a symmetric filter."""
    at = positions(len(taps), rate)
    return (taps * torch.cos(2 * math.pi * frequencies.double()[:, None] * at)).sum(1)


def test_the_window_is_kaisers_for_the_attenuation_that_the_transition_allows():
    # 2.285 * 23 * 2 pi * 2 * 5 / 64 + 7.95 = 59.5 dB, and 0.1102 (59.5 - 8.7) = 5.6
    attenuation = 2.285 * 23 * 2 * math.pi * 10 / 64 + 7.95
    expected = np.kaiser(24, 0.1102 * (attenuation - 8.7))
    np.testing.assert_allclose(kaiser_window(24, 5, 64).numpy(), expected, atol=1e-7)
    narrow = 2.285 * 11 * 2 * math.pi * 2 / 32 + 7.95  # between 21 and 50 dB another formula holds
    beta = 0.5842 * (narrow - 21) ** 0.4 + 0.07886 * (narrow - 21) if narrow > 21 else 0
    np.testing.assert_allclose(kaiser_window(12, 1, 32).numpy(), np.kaiser(12, beta), atol=1e-7)


def test_lowpass_filters_keep_the_passband_and_stop_the_stopband():
    taps = lowpass(24, cutoff=10, half_width=5, rate=64)
    torch.testing.assert_close(taps.sum().item(), 1.0)
    torch.testing.assert_close(taps, taps.flip(0))
    ripple = 10 ** (-54 / 20)  # 59.5 dB by Kaiser's formula, which is good to a few decibels
    assert (response(taps, 64, torch.linspace(0, 5, 50)) - 1).abs().max() < ripple
    assert response(taps, 64, torch.linspace(15, 32, 200)).abs().max() < ripple
    torch.testing.assert_close(response(taps, 64, torch.tensor([10.0])).item(), 0.5, atol=0.01, rtol=0)


def test_radial_filters_treat_all_directions_alike():
    taps = radial_lowpass(12, cutoff=4, half_width=4, rate=32)
    torch.testing.assert_close(taps.sum().item(), 1.0)
    at = positions(12, 32)

    def along(degrees: float, filter_: torch.Tensor) -> float:
        x, y = 5 * math.cos(math.radians(degrees)), 5 * math.sin(math.radians(degrees))
        return (filter_ * torch.cos(2 * math.pi * (x * at + y * at[:, None]))).sum().item()

    radial = [along(degrees, taps) for degrees in (0, 15, 30, 45)]
    line = lowpass(12, cutoff=4, half_width=4, rate=32)
    separable = [along(degrees, line.outer(line)) for degrees in (0, 15, 30, 45)]
    assert max(radial) - min(radial) < 0.01 < max(separable) - min(separable)
    assert abs(along(0, taps)) > 0.1, "in the transition band, where directions could differ"


@pytest.mark.parametrize(("factor", "crop"), [(2, 0), (2, 3), (4, 5)])
def test_upsampling_inserts_zeros_and_filters(factor, crop):
    x, taps = torch.randn(2, 3, 5, 6), torch.randn(6 * factor)
    zeros = torch.zeros(2, 3, 4 * factor + 1, 5 * factor + 1)
    zeros[:, :, ::factor, ::factor] = x
    kernel = taps.outer(taps).flip(0, 1).expand(3, 1, -1, -1)
    expected = conv2d(zeros, kernel, padding=len(taps) - 1, groups=3)
    inside = slice(crop, -crop or None)
    torch.testing.assert_close(upsample(x, taps, factor, crop), expected[:, :, inside, inside])


def test_downsampling_filters_and_keeps_every_other_sample():
    x, taps = torch.randn(2, 3, 18, 22), torch.randn(12)
    expected = conv2d(x, taps.outer(taps).expand(3, 1, -1, -1), groups=3)[:, :, ::2, ::2]
    torch.testing.assert_close(downsample(x, taps, 2), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(downsample(x, taps.outer(taps), 2), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_then_downsampling_a_band_limited_signal_is_the_identity(factor):
    at = positions(60, 16)  # samples at rate 16 of waves up to 2, where the passband ends
    x = torch.cos(2 * math.pi * (1.7 * at + 1.1 * at[:, None]) + 0.3) + torch.sin(2 * math.pi * (2 * at[:, None] - at))
    taps = lowpass(20 * factor, 5, 3, 16 * factor)
    back = downsample(upsample(x[None, None], taps * factor, factor), taps, factor)[0, 0]
    torch.testing.assert_close(back[20:-20, 20:-20], x[20:-20, 20:-20], atol=1e-4, rtol=0)


@pytest.mark.parametrize("two_axes", [False, True])
def test_filters_are_twice_differentiable(two_axes):
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(6, dtype=torch.float64)
    second = taps.outer(taps) if two_axes else taps

    def bent(x: torch.Tensor) -> torch.Tensor:
        return downsample(upsample(x, taps, 2, 1).square(), second, 2)

    assert torch.autograd.gradcheck(bent, x) and torch.autograd.gradgradcheck(bent, x)


def layer(radial: bool = False) -> FilteredLeakyReLU:
    """A layer that doubles the rate from 16 to 32."""
    return FilteredLeakyReLU(36, 52, (16, 32), (3.0, 5.0), (5.0, 8.0), radial)


@pytest.mark.parametrize("radial", [False, True])
def test_what_is_positive_is_only_resampled_and_scaled(radial):
    wave = lambda at: 3 + torch.cos(2 * math.pi * (0.4 * at - 0.2 * at[:, None]))  # noqa: E731
    x, expected = wave(positions(36, 16)), wave(positions(52, 32)) * math.sqrt(2)
    y = layer(radial)(x.float()[None, None])[0, 0]
    assert y.shape == (52, 52)
    torch.testing.assert_close(y[10:-10, 10:-10], expected.float()[10:-10, 10:-10], atol=0.04, rtol=0)


@pytest.mark.parametrize("radial", [False, True])
def test_a_layer_follows_movements_below_a_pixel_to_more_than_40_decibels(radial):
    torch.manual_seed(0)
    frequencies = torch.randn(40, 2, dtype=torch.float64)
    frequencies *= 2.5 / frequencies.norm(dim=1, keepdim=True)
    phases = 2 * math.pi * torch.rand(40, dtype=torch.float64)

    def sampled(moved: float) -> torch.Tensor:
        at = positions(36, 16)
        x = 2 * math.pi * (frequencies[:, 0, None, None] * (at - moved) + frequencies[:, 1, None, None] * at[:, None])
        return torch.cos(x + phases[:, None, None]).mean(0).float()[None, None] * 6

    def decibels(net) -> float:
        still, moved = net(sampled(0)), net(sampled(1 / 32))  # half a pixel of what goes in is one of what comes out
        error = (moved[..., 10:-10, 11:-10] - still[..., 10:-10, 10:-11]).square().mean()
        return (10 * torch.log10(still[..., 10:-10, 10:-10].square().mean() / error)).item()

    def careless(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(leaky_relu(x, 0.2), scale_factor=2, mode="bilinear")

    assert decibels(layer(radial)) > 40 > 35 > decibels(careless)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="20 pixels at rate 16 don't cover 60 at rate 32"):
        FilteredLeakyReLU(20, 60, (16, 32), (3.0, 5.0), (5.0, 8.0))


def test_filters_are_no_part_of_a_checkpoint():
    assert not layer().state_dict()
