"""Real pictures, described once."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.evaluation import real
from lightning_avatars.evaluation.real import Real, spread
from lightning_avatars.metrics.kernels import Gaussian, Polynomial
from lightning_avatars.metrics.neighbours import inner
from tests.evaluation.arrays import Arrays, Quadrants, noise, quadrants, silent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    return tmp_path / "statistics"


def described(extractor, images) -> Real:
    """Describe pictures anew, or from the cache."""
    found = Real(extractor, Arrays(images), silent)
    assert found.described
    return found


def count(folder) -> int:
    return len(list(folder.glob("*.safetensors")))


@pytest.mark.parametrize("block", [7, 250])
def test_mean_covariance_and_features_are_those_of_a_direct_computation(folder, monkeypatch, block):
    monkeypatch.setattr(Arrays, "block", block)
    images = noise(53)
    found, expected = described(Quadrants(), images), quadrants(images)
    assert torch.equal(found.features, expected)
    torch.testing.assert_close(found.described["mean"], expected.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.described["covariance"], expected.double().T.cov(), rtol=1e-9, atol=1e-14)
    assert "logits" not in found.described
    knowing = described(Quadrants(knows=True, name="knowing"), images)
    assert torch.equal(knowing.described["logits"], Quadrants(knows=True)(images).logits)


def test_against_holds_what_others_are_compared_with(folder):
    images = noise(40)
    against, features = described(Quadrants(), images).against, quadrants(images)
    torch.testing.assert_close(against.root @ against.root, against.covariance, rtol=1e-9, atol=1e-12)
    assert torch.equal(against.pairs, features)
    expected = inner(features, Polynomial(), 1)
    assert torch.equal(against.among.radii, expected.radii) and torch.equal(against.among.kernel, expected.kernel)


def test_the_second_time_no_picture_is_described_and_no_file_is_added(folder):
    first = described(Quadrants(), noise(20))
    kept = first.against
    files = count(folder)
    extractor = Quadrants()
    second = described(extractor, noise(20)).against
    assert extractor.seen == 0
    assert torch.equal(kept.root, second.root) and torch.equal(kept.among.kernel, second.among.kernel)
    assert count(folder) == files == 2


def test_another_kernel_is_not_answered_with_the_numbers_of_the_first(folder):
    class Wide(Quadrants):
        kernel = Gaussian(sigma=10)

    class Narrow(Quadrants):
        kernel = Gaussian(sigma=0.1)

    images = noise(20)
    sums = []
    for make in (Wide, Narrow):
        sums.append(float(described(make(), images).against.among.kernel.sum()))
        expected = inner(quadrants(images), make.kernel, 1).kernel.sum()
        assert sums[-1] == pytest.approx(float(expected), rel=1e-12)
    assert sums[0] > 2 * sums[1]


def test_other_pictures_weights_resizing_and_kept_sizes_are_other_files(folder, monkeypatch):
    described(Quadrants(), noise(20))
    assert count(folder) == 1
    described(Quadrants(), noise(20, seed=1))
    assert count(folder) == 2
    one_pixel = noise(20)
    one_pixel[3, 0, 0, 0] ^= 1
    assert not torch.equal(described(Quadrants(), one_pixel).features, quadrants(noise(20)))
    assert count(folder) == 3
    assert torch.equal(described(Quadrants(scale=2.0), noise(20)).features, 2 * quadrants(noise(20)))
    assert count(folder) == 4
    other = Quadrants()
    other.resize = "another rule"
    described(other, noise(20))
    assert count(folder) == 5
    monkeypatch.setattr(real, "KEPT_BYTES", 12 * 4 * 10)
    described(Quadrants(), noise(20))
    assert count(folder) == 6
    described(Quadrants(), noise(20))
    assert count(folder) == 6


def test_of_more_pictures_than_are_kept_all_are_in_the_moments(folder, monkeypatch):
    monkeypatch.setattr(real, "KEPT_BYTES", 12 * 4 * 10)
    monkeypatch.setattr(Arrays, "block", 8)
    images = noise(53)
    found, all_of_them = described(Quadrants(knows=True), images), quadrants(images)
    chosen = spread(53, 10)
    assert torch.equal(found.features, all_of_them[chosen]) and len(chosen) == 10
    assert torch.equal(found.described["logits"], Quadrants(knows=True)(images).logits[chosen])
    torch.testing.assert_close(found.described["mean"], all_of_them.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.described["covariance"], all_of_them.double().T.cov(), rtol=1e-9, atol=1e-14)


def test_of_more_features_than_are_compared_pair_by_pair_some_are_at_even_distances(folder, monkeypatch):
    monkeypatch.setattr(real, "PAIRS", 15)
    against = described(Quadrants(), noise(40)).against
    assert torch.equal(against.pairs, quadrants(noise(40))[spread(40, 15)]) and against.among.radii.shape == (15, 2)


def test_places_are_spread_from_the_first_to_the_last_and_never_twice():
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4] and spread(1, 10).tolist() == [0]
    assert spread(9, 3).tolist() == [0, 4, 8]
    for size, most in ((1_000_003, 997), (162_770, 10_000), (87_382, 87_381)):
        places = spread(size, most)
        assert len(places) == most and places[0] == 0 and places[-1] == size - 1
        steps = places.diff()
        assert int(steps.min()) >= 1 and int(steps.max() - steps.min()) <= 1
