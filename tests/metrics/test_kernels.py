"""Kernel distances against their definitions, torch-fidelity's KID, and a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from lightning_avatars.metrics.intervals import block_counts
from lightning_avatars.metrics.kernels import Gaussian, Kernel, Polynomial, mmd
from lightning_avatars.metrics.neighbours import inner, outer

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(83, 12, generator=DRAW)
Y = torch.randn(71, 12, generator=DRAW) * 1.2 + 0.3


def of(x: torch.Tensor, y: torch.Tensor, kernel: Kernel, blocks: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    samples, reals = inner(x, kernel, blocks), inner(y, kernel, blocks)
    sums = outer(x, y, samples, reals, kernel, blocks)
    return mmd(samples.kernel, sums.kernel, reals.kernel.sum(), sums.counts, len(y))


def polynomial(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def gaussian(a: np.ndarray, b: np.ndarray) -> float:
    return 1000 * math.exp(-((a - b) ** 2).sum() / 200)


def slow(x: torch.Tensor, y: torch.Tensor, kernel) -> float:
    """The unbiased estimator, pair by pair."""
    a, b = x.double().numpy(), y.double().numpy()
    xx = np.mean([kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j])
    yy = np.mean([kernel(p, q) for i, p in enumerate(b) for j, q in enumerate(b) if i != j])
    return float(xx + yy - 2 * np.mean([kernel(p, q) for p in a for q in b]))


@pytest.mark.parametrize(("kernel", "formula"), [(Polynomial(), polynomial), (Gaussian(), gaussian)])
def test_the_distance_and_those_without_a_block_are_the_slow_ones(kernel, formula):
    value, without = of(X, Y, kernel, 4)
    assert float(value) == pytest.approx(slow(X, Y, formula), rel=1e-9)
    block = torch.arange(83) * 4 // 83
    assert without.tolist() == pytest.approx([slow(X[block != b], Y, formula) for b in range(4)], rel=1e-9)


def test_kid_is_torch_fidelitys_with_one_subset_of_all():
    expected = kid_features_to_metric(
        X[:71].double(), Y.double(), kid_subsets=1, kid_subset_size=71, kid_degree=3, verbose=False
    )["kernel_inception_distance_mean"]
    assert float(of(X[:71], Y, Polynomial())[0]) == pytest.approx(expected, rel=1e-9)


def test_the_gaussian_kernel_of_gaussians_in_closed_form():
    """Of N(0, I) and N(m, I) in D dimensions: 2 s (1 + 2 / v)^(-D/2) (1 - exp(-|m|^2 / (2 (v + 2)))), v = sigma^2."""
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(3000, 2, generator=draw), torch.randn(3000, 2, generator=draw) + torch.tensor([2.0, 0])
    expected = 2 * 1000 / (1 + 2 / 4) * (1 - math.exp(-4 / 12))
    assert float(of(x, y, Gaussian(sigma=2.0))[0]) == pytest.approx(expected, rel=0.05)


def test_the_distance_of_one_distribution_is_0_in_the_mean():
    draw = torch.Generator().manual_seed(2)
    values = [float(of(torch.randn(40, 4, generator=draw), torch.randn(40, 4, generator=draw), Gaussian(2.0))[0])
              for _ in range(60)]  # fmt: skip
    mean, error = np.mean(values), np.std(values) / 60**0.5
    assert abs(mean) < 3 * error < 8 and min(values) < 0


def test_one_image_has_no_distance():
    one = torch.ones(1, 1, dtype=torch.float64)
    assert mmd(0 * one, one[0], one.sum(), block_counts(1), 5)[0].isnan()
    assert mmd(one, one[0], 0 * one.sum(), torch.tensor([4.0]), 1)[0].isnan()


def test_kernels_leave_the_inner_products_as_they_are():
    products = X @ X.T
    for kernel in (Polynomial(), Gaussian()):
        before = products.clone()
        kernel(products, X.square().sum(1), X.square().sum(1), 12)
        assert torch.equal(products, before)
