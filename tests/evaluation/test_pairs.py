"""Scores of pairs by name, as far as they are defined at a size."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avatars.evaluation.pairs import Pairs, means
from lightning_avatars.metrics import pairwise
from tests.evaluation.arrays import Quadrants, noise

CPU = torch.device("cpu")


class Difference:
    """Stands for a perceptual network."""

    name, least_side = "lpips_none", 16

    def __call__(self, a, b):
        return (a.double() - b.double()).abs().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ((5, 9), ["l1", "mse", "psnr"]),
        ((8, 8), ["l1", "mse", "psnr", "ssim"]),
        ((16, 15), ["l1", "mse", "psnr", "ssim"]),
        ((16, 16), ["l1", "mse", "psnr", "ssim", "lpips_none"]),
        ((175, 300), ["l1", "mse", "psnr", "ssim", "lpips_none"]),
        ((176, 176), ["l1", "mse", "psnr", "ssim", "ms_ssim", "lpips_none"]),
    ],
)
def test_what_is_not_defined_at_a_size_is_left_out(size, names):
    assert list(Pairs(3, min(size), [Difference()], None, CPU).metrics) == names


def test_every_pair_has_its_scores_in_its_place_whatever_the_order():
    a, b = noise(21, 1, 16), noise(21, 2, 16)
    pairs = Pairs(21, 16, [Difference()], Quadrants(), CPU)
    for first in (16, 0, 8):
        index = torch.arange(first, min(first + 8, 21))
        pairs.update(index, a[index], b[index])
    found = pairs.compute()
    expected = {
        "l1": pairwise.l1(a, b), "mse": pairwise.mse(a, b), "psnr": pairwise.psnr(a, b), "ssim": pairwise.ssim(a, b),
        "lpips_none": Difference()(a, b),
        "identity_quadrants": torch.cosine_similarity(Quadrants()(a).features, Quadrants()(b).features),
    }  # fmt: skip
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.double(), rtol=1e-6, atol=1e-9)
    assert float(found["l1"][5]) == pytest.approx(float(((a[5] - 0.0 - b[5]) / 255).abs().mean()), rel=1e-6)
    assert float(found["mse"][5]) == pytest.approx(float(((a[5] - 0.0 - b[5]) / 255).square().mean()), rel=1e-6)


def test_the_mean_comes_with_students_interval_and_the_number_of_pairs_in_its_name():
    score = means({"mse": torch.tensor([1.0, 2.0, 3.0, 4.0]).double()}, {})["mse_4"]
    half = 3.1824 * math.sqrt(5 / 3) / 2  # t with 3 degrees of freedom, standard error
    assert score.value == 2.5 and score.interval == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)
    assert score.floor is None and score.extractor is None
    assert list(means({"psnr": torch.ones(2000)}, {})) == ["psnr_2k"]


def test_of_a_module_that_diverged_there_is_no_score():
    score = means({"mse": torch.ones(4)}, {}, True)["mse_4"]
    assert math.isnan(score.value) and score.plain()["value"] is score.plain()["interval"] is None
