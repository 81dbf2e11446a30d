"""The filter [1, 3, 3, 1] against its definition, its adjoint and signals whose resampling is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from lightning_avatars.networks.layers.resampling import Filter

LINE = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.double)
OPERATIONS = {
    "up": lambda x: Filter().up(x),
    "down": lambda x: Filter().down(x),
    "smooth1": lambda x: Filter().smooth(x, 1),
    "smooth2": lambda x: Filter().smooth(x, 2, gain=4),
}


def matrix(size: int) -> torch.Tensor:
    """Upsampling along one axis, 2 size x size: zeros between the pixels, then the filter."""
    rows = torch.zeros(2 * size, size, dtype=torch.double)
    for i in range(size):
        for tap, value in enumerate(LINE / 4):
            if 0 <= 2 * i + tap - 1 < 2 * size:
                rows[2 * i + tap - 1, i] = value
    return rows


def test_up_and_down_are_these_matrices_along_both_axes():
    x = torch.randn(2, 3, 5, 6, dtype=torch.double)
    torch.testing.assert_close(Filter().up(x), matrix(5) @ x @ matrix(6).T)
    y = torch.randn(2, 3, 8, 6, dtype=torch.double)
    torch.testing.assert_close(Filter().down(y), matrix(4).T @ y @ matrix(3) / 4)


def test_smoothing_is_this_sum():
    x, kernel = torch.randn(1, 2, 5, 5, dtype=torch.double), LINE.outer(LINE) / 64
    padded = pad(x, (2, 2, 2, 2))
    expected = sum(kernel[i, j] * padded[:, :, i : i + 6, j : j + 6] for i in range(4) for j in range(4))
    torch.testing.assert_close(Filter().smooth(x, 2), expected)
    torch.testing.assert_close(Filter().smooth(x, 2, gain=3), 3 * expected)


def test_up_is_four_times_the_adjoint_of_down():
    x, y = torch.randn(2, 3, 4, 4, dtype=torch.double), torch.randn(2, 3, 8, 8, dtype=torch.double)
    torch.testing.assert_close((Filter().up(x) * y).sum(), 4 * (x * Filter().down(y)).sum())


def test_it_is_the_published_blur_of_doubled_and_averaged_pixels():
    x, blur = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = blur.outer(blur).expand(3, 1, 3, 3)
    doubled = torch.nn.functional.conv2d(interpolate(x, scale_factor=2), blur, padding=1, groups=3)
    torch.testing.assert_close(Filter().up(x), doubled)
    averaged = avg_pool2d(torch.nn.functional.conv2d(x, blur, padding=1, groups=3), 2)
    torch.testing.assert_close(Filter().down(x), averaged)


@pytest.mark.parametrize("cycles", [1, 2, 4])
def test_up_then_down_of_a_wave_scales_it_by_the_filters_gain(cycles):
    """A cosine comes back times the filter's response at its frequency, squared, with what aliases taken along."""
    size = 32
    wave = torch.cos(2 * math.pi * cycles * (torch.arange(size, dtype=torch.double) + 0.5) / size)
    x = wave.expand(1, 1, size, size).transpose(2, 3)
    turned = Filter().down(Filter().up(x))[:, :, 4:-4, 4:-4]
    angle = math.pi * cycles / size  # radians for a fine pixel
    gain = math.cos(angle / 2) ** 6 + math.sin(angle / 2) ** 6  # [1, 1]^3 twice, and its image about half the rate
    torch.testing.assert_close(turned, gain * x[:, :, 4:-4, 4:-4])
    if cycles == 1:
        torch.testing.assert_close(turned, x[:, :, 4:-4, 4:-4], atol=0.01, rtol=0)


def test_a_constant_stays_the_same_inside():
    x = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(Filter().up(x)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 14, 14))
    torch.testing.assert_close(Filter().down(x)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_is_twice_differentiable_and_keeps_its_gradients_exact(name):
    x = torch.randn(2, 2, 6, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(OPERATIONS[name], x)
    assert torch.autograd.gradgradcheck(lambda x: OPERATIONS[name](x).square(), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_channels_last_and_bfloat16_change_nothing_but_digits(name):
    x = torch.randn(2, 8, 8, 8)
    expected = OPERATIONS[name](x)
    last = OPERATIONS[name](x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)
    coarse = OPERATIONS[name](x.bfloat16())
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), expected, atol=0.05, rtol=0.05)


def test_autocast_leaves_pictures_their_precision():
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    expected = Filter().up(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = Filter().up(x)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0])


def test_the_kernel_moves_with_the_network_and_stays_out_of_its_state():
    assert not Filter().state_dict() and Filter().double().kernel.dtype == torch.double
    assert Filter().kernel.sum() == 1


def test_half_precision_doubles_as_single_does_and_rounds_once():
    x = torch.randn(2, 3, 8, 8).bfloat16()
    assert torch.equal(Filter().up(x), Filter().up(x.float()).bfloat16())
