"""The Fréchet distance of Gaussians in closed form, and moments against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_avatars.metrics.frechet import Moments, frechet_distance, frechet_to, square_root


def gaussian(seed: int, dim: int = 12, rank: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dim, rank or dim + 3))
    return torch.from_numpy(rng.normal(size=dim)), torch.from_numpy(factor @ factor.T)


def published(mean_a, cov_a, mean_b, cov_b) -> float:
    """Eq. 6 as it is written: the trace of the root of the product is the sum of the roots of its eigenvalues."""
    roots = np.sqrt(np.linalg.eigvals(cov_a.numpy() @ cov_b.numpy()).astype(complex)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * roots.real)


def test_covariances_that_do_not_commute():
    for seed in range(4):
        a, b = gaussian(seed), gaussian(seed + 10)
        assert (a[1] @ b[1] - b[1] @ a[1]).abs().max() > 1
        assert frechet_distance(*a, *b).item() == pytest.approx(published(*a, *b), rel=1e-9)


def test_two_by_two_by_hand():
    """For 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))."""
    a, b = torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])  # M = A B: trace 6, det 4
    expected = 25 + 3 + 5 - 2 * 10**0.5
    assert frechet_distance(torch.zeros(2), a, torch.tensor([3.0, 4.0]), b).item() == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 0.25])
    found = frechet_distance(torch.zeros(3), a.diag(), torch.ones(3), b.diag())
    assert found.item() == pytest.approx(3 + ((a.sqrt() - b.sqrt()) ** 2).sum().item(), rel=1e-12)


def test_one_dimension():
    found = frechet_distance(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([-2.0]), torch.tensor([[25.0]]))
    assert found.item() == pytest.approx(3**2 + (2 - 5) ** 2) and found.dtype == torch.float64


def test_a_set_is_at_no_distance_from_itself():
    for rank in (None, 5):
        mean, cov = gaussian(1, rank=rank)
        assert abs(frechet_distance(mean, cov, mean, cov).item()) < 1e-5 * cov.trace()


def test_it_is_symmetric_and_does_not_turn_with_the_axes():
    a, b = gaussian(1), gaussian(2)
    turned, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    expected = frechet_distance(*a, *b).item()
    assert frechet_distance(*b, *a).item() == pytest.approx(expected, rel=1e-9)
    rotated = [x for mean, cov in (a, b) for x in (turned @ mean, turned @ cov @ turned.T)]
    assert frechet_distance(*rotated).item() == pytest.approx(expected, rel=1e-9)


def test_singular_covariances():
    """Fewer images than dimensions: the general matrix root is complex or fails there, this one is not."""
    flat, full = gaussian(1, rank=3), gaussian(2)
    zero = torch.zeros(12, 12)
    assert frechet_distance(*flat, *full).item() == pytest.approx(published(*flat, *full), rel=1e-5)
    assert frechet_distance(*full, *flat).item() == pytest.approx(frechet_distance(*flat, *full).item(), rel=1e-6)
    assert frechet_distance(full[0], zero, *full).item() == pytest.approx(full[1].trace().item(), rel=1e-12)
    assert frechet_distance(full[0], zero, full[0], zero).item() == 0


FEATURES = np.random.default_rng(0).normal(3, 2, (50, 6)) @ np.random.default_rng(1).normal(size=(6, 6))


def moments(features: np.ndarray, size: int = 50) -> Moments:
    metric = Moments(features.shape[1])
    for first in range(0, len(features), size):
        metric.update(torch.from_numpy(features[first : first + size]))
    return metric


@pytest.mark.parametrize("size", [50, 25, 7, 1])
def test_moments_in_blocks_are_numpys(size):
    mean, cov = moments(FEATURES, size).compute()
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose(mean, FEATURES.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(FEATURES.T), rtol=1e-10, atol=1e-12)


def test_moments_of_float32_features_far_from_zero():
    features = (FEATURES / 100 + 100).astype(np.float32)
    _, cov = moments(features, 8).compute()
    np.testing.assert_allclose(cov, np.cov(features.T.astype(np.float64)), rtol=1e-4, atol=1e-9)


def test_merged_states_are_those_of_all_images():
    a, b = moments(FEATURES[:13], 5), moments(FEATURES[13:], 9)
    a.merge_state(b)
    for merged, whole in zip(a.compute(), moments(FEATURES).compute(), strict=True):
        torch.testing.assert_close(merged, whole, rtol=1e-12, atol=1e-12)


def test_reset_forgets():
    metric = moments(FEATURES)
    metric.reset()
    metric.update(torch.from_numpy(FEATURES[:20]))
    np.testing.assert_allclose(metric.compute()[1], np.cov(FEATURES[:20].T), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_have_no_covariance(count):
    with pytest.raises(ValueError, match=f"at least 2 images, got {count}"):
        moments(FEATURES[:count]).compute()


def test_distance_of_samples_nears_that_of_their_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20_000, 4)), rng.normal([1, 0, 0, 0], [1, 2, 1, 1], (20_000, 4))
    found = frechet_distance(*moments(a, 5000).compute(), *moments(b, 5000).compute())
    assert found.item() == pytest.approx(1 + (2 - 1) ** 2, rel=0.03)


def test_a_known_root_gives_the_same_distance():
    reference, others = gaussian(0), [gaussian(seed) for seed in (1, 2)]
    root = square_root(reference[1])
    np.testing.assert_allclose(root @ root, reference[1], rtol=1e-9, atol=1e-9)
    for other in others:
        assert frechet_to(root, *reference, *other).item() == pytest.approx(published(*reference, *other), rel=1e-9)


def test_moments_without_each_block_are_numpys():
    metric = Moments(6, blocks=10, count=50)
    for index in torch.randperm(50, generator=torch.Generator().manual_seed(0)).split(7):
        metric.update(torch.from_numpy(FEATURES)[index], index)
    np.testing.assert_allclose(metric.compute()[1], np.cov(FEATURES.T), rtol=1e-10, atol=1e-12)
    without = list(metric.leave_one_out())
    assert len(without) == 10
    for block, (mean, cov) in enumerate(without):
        kept = np.delete(FEATURES, range(block * 5, block * 5 + 5), 0)
        np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-12)
        np.testing.assert_allclose(cov, np.cov(kept.T), rtol=1e-9, atol=1e-11)


def test_features_far_from_zero_lose_the_digits_that_are_stated():
    far = np.random.default_rng(3).normal(1000, 1, (500, 4))
    np.testing.assert_allclose(moments(far).compute()[1], np.cov(far.T), rtol=0, atol=1e-8)
    near = np.random.default_rng(3).normal(0.4, 0.4, (500, 4))
    np.testing.assert_allclose(moments(near).compute()[1], np.cov(near.T), rtol=0, atol=1e-14)


def test_blocks_need_to_know_how_many_images_there_will_be():
    with pytest.raises(ValueError, match="give `count`"):
        Moments(6, blocks=10)
    with pytest.raises(ValueError, match="give the images' indices"):
        Moments(6, blocks=10, count=50).update(torch.ones(5, 6))
    with pytest.raises(ValueError, match="not all those of 50 images"):
        Moments(6, blocks=10, count=50).update(torch.ones(2, 6), torch.tensor([0, 50]))


def test_fewer_images_than_blocks():
    metric = Moments(6, blocks=10, count=4)
    metric.update(torch.from_numpy(FEATURES[:4]), torch.arange(4))
    assert len(list(metric.leave_one_out())) == 4
