"""Pairwise scores against closed forms, a slow SSIM written as the paper has it, and torchmetrics in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lightning_avatars.metrics import pairwise
from lightning_avatars.metrics.pairwise import (
    identity_similarity,
    ms_ssim,
    ms_ssim_defined,
    mse,
    psnr,
    ssim,
    ssim_defined,
)


def pair(count: int = 3, channels: int = 3, height: int = 20, width: int = 24, step: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(256, (count, channels, height, width), generator=generator)
    b = (a + torch.randint(-step, step + 1, a.shape, generator=generator)).clamp(0, 255)
    return a.to(torch.uint8), b.to(torch.uint8)


def slow_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, Eq. 13, pixel by pixel with the weighted moments of Eq. 14-16, mirrored at the borders."""
    height, width = a.shape
    offsets = range(-5, 6)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in offsets for j in offsets}
    norm, total = sum(weights.values()), 0.0

    def mirrored(i: int, size: int) -> int:
        return min(abs(i), 2 * (size - 1) - abs(i))

    for y in range(height):
        for x in range(width):
            seen = [(w / norm, mirrored(y + i, height), mirrored(x + j, width)) for (i, j), w in weights.items()]
            seen = [(w, float(a[i, j]), float(b[i, j])) for w, i, j in seen]
            mean_a, mean_b = sum(w * p for w, p, _ in seen), sum(w * q for w, _, q in seen)
            var_a = sum(w * (p - mean_a) ** 2 for w, p, _ in seen)
            var_b = sum(w * (q - mean_b) ** 2 for w, _, q in seen)
            cov = sum(w * (p - mean_a) * (q - mean_b) for w, p, q in seen)
            c1, c2 = 2.55**2, 7.65**2
            total += (2 * mean_a * mean_b + c1) * (2 * cov + c2) / (mean_a**2 + mean_b**2 + c1) / (var_a + var_b + c2)
    return total / (height * width)


def test_mse_of_black_and_white_is_one_and_is_of_images_in_unit_range():
    black, white = torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.full((2, 3, 4, 5), 255, dtype=torch.uint8)
    assert mse(black, white).tolist() == [1.0, 1.0]
    a, b = pair()
    expected = (a.double() / 255 - b.double() / 255).square().mean((1, 2, 3))
    torch.testing.assert_close(mse(a, b), expected, rtol=1e-12, atol=0)
    assert mse(a, b).dtype == torch.float64


def test_l1_is_the_mean_absolute_difference_of_images_in_0_to_1():
    a = torch.tensor([0, 255, 10, 200], dtype=torch.uint8).view(1, 1, 2, 2).repeat(2, 3, 1, 1)
    b = torch.tensor([255, 255, 20, 100], dtype=torch.uint8).view(1, 1, 2, 2).repeat(2, 3, 1, 1)
    b[1] = a[1]
    assert pairwise.l1(a, b).tolist() == pytest.approx([(255 + 0 + 10 + 100) / 4 / 255, 0])


def test_psnr_equals_that_of_torchmetrics():
    a, b = pair()
    expected = peak_signal_noise_ratio(a.double(), b.double(), 255.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), expected, rtol=1e-7, atol=0)  # its 10 log10 is made of float32
    assert psnr(torch.zeros(1, 1, 6, 6, dtype=torch.uint8), torch.full((1, 1, 6, 6), 255, dtype=torch.uint8)) == 0


def test_equal_images_get_the_psnr_of_images_that_differ_by_one_in_one_value():
    a, _ = pair(count=1)
    b = a.clone()
    b[0, 1, 2, 3] = a[0, 1, 2, 3].int() + (1 if a[0, 1, 2, 3] < 255 else -1)
    assert psnr(a, a).item() == psnr(a, b).item() == pytest.approx(10 * math.log10(255**2 * 3 * 20 * 24), abs=1e-12)


def test_ssim_equals_one_written_pixel_by_pixel():
    a, b = pair(count=1, channels=1, height=12, width=14)
    assert ssim(a, b).item() == pytest.approx(slow_ssim(a[0, 0], b[0, 0]), abs=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(6, 6), (31, 17), (64, 64), (109, 89)])
def test_ssim_equals_that_of_torchmetrics_in_float64(channels, size):
    a, b = pair(2, channels, *size)
    expected = structural_similarity_index_measure(a.double(), b.double(), data_range=255.0, reduction="none")
    torch.testing.assert_close(ssim(a, b), expected, rtol=0, atol=1e-12)


def test_equal_images_have_an_ssim_of_one_even_where_they_are_flat_and_white():
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(ssim(white, white), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-11)


def test_ms_ssim_equals_that_of_torchmetrics_in_float64():
    a, b = pair(2, 1, 176, 190)
    expected = multiscale_structural_similarity_index_measure(
        a.double(), b.double(), data_range=255.0, reduction="none"
    )
    torch.testing.assert_close(ms_ssim(a, b), expected.double(), rtol=0, atol=1e-7)  # its exponents are float32
    assert ms_ssim(a, 255 - a).tolist() == [0.0, 0.0]
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-11)


def test_images_that_are_too_small_are_named():
    assert ssim_defined(6, 6) and not ssim_defined(6, 5)
    assert ms_ssim_defined(176, 176) and not ms_ssim_defined(175, 300)
    with pytest.raises(ValueError, match="at least 6 x 6 pixels, got 5 x 24"):
        ssim(*pair(height=5))
    with pytest.raises(ValueError, match="at least 176 x 176 pixels, got 300 x 175"):
        ms_ssim(*pair(1, 1, 300, 175))


@pytest.mark.parametrize("score", [mse, psnr, ssim, ms_ssim])
def test_pairs_that_are_not_bytes_of_one_shape_are_refused(score):
    a, b = pair()
    for wrong in (b.float(), b[:2], b[:, :1], b[0]):
        with pytest.raises(ValueError, match=r"two uint8 batches N C H W of one shape"):
            score(a, wrong)
    with pytest.raises(ValueError, match=r"1 or 3 channels"):
        score(a[:, :2], b[:, :2])


def test_chunks_change_nothing(monkeypatch):
    a, b = pair(5)
    whole = ssim(a, b)
    monkeypatch.setattr(pairwise, "PIXELS", 2 * 20 * 24)
    torch.testing.assert_close(ssim(a, b), whole, rtol=0, atol=1e-14)


def test_identity_similarity_is_the_cosine_of_each_row():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [4.0, 3.0]])
    expected = torch.tensor([1.0, 0.0, -1.0, 0.96], dtype=torch.float64)
    torch.testing.assert_close(identity_similarity(a, b), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(3, 2\)"):
        identity_similarity(a, b[:3])
