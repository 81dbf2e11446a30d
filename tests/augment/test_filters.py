"""Filters with mirrors for borders against slow sums, and their closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_avatars.augment.filters import DOWN, UP, enlarge, equalize, octaves, reduce


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def mirrored(row: np.ndarray, at: int) -> float:
    return row[min(at % (2 * len(row) - 2), -at % (2 * len(row) - 2))]


def test_the_two_halves_of_the_half_band_filter_undo_each_other():
    both = np.convolve(UP, DOWN)
    expected = [-5, 0, 49, 0, -245, 0, 1225, 2048, 1225, 0, -245, 0, 49, 0, -5]  # maximally flat: zeros of order 8
    np.testing.assert_allclose(both * 2048, expected, atol=1e-12)
    assert sum(UP) == pytest.approx(2, abs=1e-15) and sum(DOWN) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (5, 8), (16, 16)])
def test_enlarging_and_reducing_is_the_identity(height, width):
    x = image(2, 3, height, width)
    large = enlarge(x)
    assert large.shape == (2, 3, 2 * height - 1, 2 * width - 1)
    margin = torch.from_numpy(np.pad(large.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), "reflect"))
    torch.testing.assert_close(reduce(margin), x)


def test_enlarging_is_a_convolution_between_mirrors():
    row = image(7).numpy()
    slow = [sum(UP[k + 3] * mirrored(row, (j - k) // 2) for k in range(-3, 4) if (j - k) % 2 == 0) for j in range(13)]
    both = enlarge(torch.from_numpy(row).expand(1, 1, 6, 7))
    np.testing.assert_allclose(both[0, 0, 0].numpy(), slow, atol=1e-12)
    np.testing.assert_allclose(enlarge(torch.ones(1, 1, 4, 4)).numpy(), 1, atol=1e-6)


def test_reducing_removes_what_half_the_samples_cannot_hold():
    stripes = torch.tensor([1.0, -1.0]).repeat(12)[:23].double()  # the highest frequency there is
    torch.testing.assert_close(reduce(stripes.expand(1, 1, 23, 23)).abs().max(), torch.zeros(()).double())


def response(taps: list[float], frequency: float) -> float:
    """Gain at a frequency from 0 to 1, the highest."""
    return float(sum(tap * np.cos(np.pi * frequency * (k - 21)) for k, tap in enumerate(taps)))


def test_the_four_bands_are_octaves_that_add_up_to_the_identity():
    bands = octaves()
    np.testing.assert_allclose(np.sum(bands, 0), np.arange(43) == 21, atol=1e-15)
    for band, middle in zip(bands, (1 / 32, 3 / 16, 3 / 8, 3 / 4), strict=True):
        gains = [response(other, middle) for other in bands]
        assert response(band, middle) == max(gains) > 0.7
    for edge, (low, high) in zip((1 / 8, 1 / 4, 1 / 2), pairwise(bands), strict=True):
        assert response(low, edge) == pytest.approx(response(high, edge), abs=0.08), f"they cross at {edge}"


def test_equal_gains_are_a_factor_along_both_axes():
    x = image(2, 3, 9, 6)
    gains = torch.tensor([[2.0], [0.5]]).expand(2, 4).double()
    torch.testing.assert_close(equalize(x, gains), x * torch.tensor([4, 0.25])[:, None, None, None])
    assert torch.equal(equalize(x, torch.ones(2, 4)), x)


def test_equalizing_is_a_convolution_between_mirrors():
    """Rows shorter than the filter are mirrored again and again."""
    gains = torch.tensor([[0.3, 2.0, 0.5, 1.7]], dtype=torch.float64)
    taps = gains[0].numpy() @ np.array(octaves())
    row = image(10).numpy()
    slow = [sum(taps[k + 21] * mirrored(row, i + k) for k in range(-21, 22)) for i in range(10)]
    found = equalize(torch.from_numpy(row).expand(1, 1, 5, 10), gains)[0, 0] / 0.3  # columns are constant: band 1
    np.testing.assert_allclose(found.numpy(), np.tile(slow, (5, 1)), atol=1e-12)
    found = equalize(torch.from_numpy(row)[:, None].expand(1, 1, 10, 5), gains)[0, 0] / 0.3
    np.testing.assert_allclose(found.numpy().T, np.tile(slow, (5, 1)), atol=1e-12)


def test_constants_made_while_evaluating_can_train():
    with torch.inference_mode():
        enlarge(torch.ones(1, 1, 37, 37))
    x = torch.ones(1, 1, 37, 37, requires_grad=True)
    (gradient,) = torch.autograd.grad(enlarge(x).sum(), x)
    assert gradient.sum().item() == pytest.approx(73 * 73, rel=1e-5)
