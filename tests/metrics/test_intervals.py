"""Blocks, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avatars.metrics.intervals import (
    block_counts,
    block_slices,
    blocks_of,
    jackknife,
    mean_interval,
    quantile,
    without_each,
)


@pytest.mark.parametrize(("count", "blocks"), [(100, 10), (1003, 10), (19, 10), (10, 10), (7, 10), (1, 10), (0, 10)])
def test_slices_and_counts_are_those_of_the_blocks(count, blocks):
    block = blocks_of(count, blocks)
    slices = block_slices(count, blocks)
    assert len(slices) == min(blocks, count) and block_counts(count, blocks).sum() == count
    for number, part in enumerate(slices):
        assert (block == number).nonzero().flatten().tolist() == list(range(part.start, part.stop))


def test_a_block_of_an_image_follows_the_formula():
    assert blocks_of(23, 10).tolist() == [i * 10 // 23 for i in range(23)]


def test_sums_without_each_block():
    assert without_each(torch.tensor([[1.0, 2], [3, 4], [5, 6]])).tolist() == [[8, 10], [6, 8], [4, 6]]


@pytest.mark.parametrize(("freedom", "expected"), [
    (1, 12.7062), (9, 2.2622), (10, 2.2281), (11, 2.20099), (30, 2.04227), (100, 1.98397), (10**6, 1.95997),
])  # fmt: skip
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert quantile(freedom) == pytest.approx(expected, abs=5e-5)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Over blocks of equal size, it is the deviation of the blocks' means over the root of their number."""
    means = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = jackknife(without_each(means) / 9, means.mean())
    half = 2.2622 * float(means.std()) / math.sqrt(10)
    assert (low, high) == pytest.approx((float(means.mean()) - half, float(means.mean()) + half), rel=1e-12)


def test_five_blocks_use_their_own_quantile():
    low, high = jackknife(torch.tensor([1.0, 1, 1, 1, 2]), 1.2)
    assert high - 1.2 == pytest.approx(1.2 - low) == pytest.approx(2.7764 * math.sqrt(4 / 5 * 0.8), rel=1e-6)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    x = torch.randn(2000, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = [mean_interval(row) for row in x]
    assert sum(low < 0 < high for low, high in means) / 2000 == pytest.approx(0.95, abs=0.015)
    variances = x.reshape(2000, 10, 6).square()
    hits = 0
    for row in variances:
        low, high = jackknife(without_each(row.sum(1)) / 54, row.mean())
        hits += low < 1 < high
    assert hits / 2000 == pytest.approx(0.93, abs=0.03)


def test_one_block_or_one_image_has_no_interval():
    assert all(map(math.isnan, jackknife(torch.tensor(1.0), 1.0) + jackknife(torch.ones(1), 1.0)))
    assert all(map(math.isnan, mean_interval(torch.ones(1))))
