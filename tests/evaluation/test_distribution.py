"""All scores of a set from one description of each image, equal to their formulas."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.evaluation import distribution
from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.real import Real
from lightning_avatars.metrics.frechet import frechet_distance
from tests.evaluation.arrays import Arrays, Quadrants, noise, quadrants, silent

CPU = torch.device("cpu")
KINDS = {"fd", "kd", "precision", "recall", "density", "coverage"}


def filled(extractor, images, block=8) -> Distribution:
    seen = Distribution(extractor, len(images), CPU)
    for first in reversed(range(0, len(images), block)):  # the order does not matter
        some = images[first : first + block]
        seen.update(torch.arange(first, first + len(some)), extractor(some))
    return seen


def direct(x, y) -> dict[str, float]:
    """Every score of features ``x`` against ``y`` by the formulas of the papers, with full matrices."""
    x, y = x.double(), y.double()
    n = len(x)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    apart, real, made = torch.cdist(x, y), torch.cdist(y, y), torch.cdist(x, x)
    third, fifth = (real.sort(1).values[:, k] for k in (3, 5))  # place 0 is the image itself
    reach = made.sort(1).values[:, 3]
    return {
        "fd": float(frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())),
        "kd": float(within[0] + within[1] - 2 * kernel(x, y).mean()),
        "precision": float((apart <= third).any(1).double().mean()),
        "recall": float((apart <= reach[:, None]).any(0).double().mean()),
        "density": float((apart <= fifth).double().sum() / n / 5),
        "coverage": float((apart <= fifth).any(0).double().mean()),
    }


def test_estimates_are_those_of_the_formulas():
    made, real = noise(53, seed=1), noise(71, seed=2)
    found = filled(Quadrants(), made).estimates(Real(Quadrants(), Arrays(real), silent).against)
    expected = direct(quadrants(made), quadrants(real))
    assert found.keys() == expected.keys() == KINDS
    for kind, value in expected.items():
        assert float(found[kind][0]) == pytest.approx(value, rel=1e-9, abs=1e-12), kind
        assert found[kind][1].shape == (10,)


def test_values_without_a_block_are_those_of_the_other_images():
    made, real = noise(50, seed=1), noise(71, seed=2)
    against = Real(Quadrants(), Arrays(real), silent).against
    found = filled(Quadrants(), made).estimates(against)
    for block in (0, 7):
        rest = torch.cat([made[: 5 * block], made[5 * block + 5 :]])
        expected = direct(quadrants(rest), quadrants(real))
        for kind in KINDS - {"recall"}:  # whose balls are kept
            assert float(found[kind][1][block]) == pytest.approx(expected[kind], rel=1e-9, abs=1e-12), kind


def test_the_class_score_is_that_of_the_groups_of_labels():
    extractor, made = Quadrants(knows=True), noise(30, seed=1)
    found = filled(extractor, made).estimates(Real(extractor, Arrays(noise(40)), silent).against)
    p = extractor(made).logits.double().softmax(1)
    expected = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp()
    assert float(found["class_score"][0]) == pytest.approx(float(expected), rel=1e-9) and expected > 1.01
    assert found.keys() == KINDS | {"class_score"}


def test_images_are_as_good_a_reference_as_pictures():
    made, real = noise(40, seed=1), noise(60, seed=2)
    one = filled(Quadrants(), real).against()
    other = Real(Quadrants(), Arrays(real), silent).against
    seen = filled(Quadrants(), made)
    found, expected = seen.estimates(one), seen.estimates(other)
    for kind in KINDS:
        torch.testing.assert_close(found[kind], expected[kind], rtol=1e-9, atol=1e-12)


def test_a_set_against_itself_is_at_distance_nought():
    images = noise(40)
    found = filled(Quadrants(), images).estimates(Real(Quadrants(), Arrays(images), silent).against)
    assert abs(float(found["fd"][0])) < 1e-6 and float(found["precision"][0]) == float(found["recall"][0]) == 1
    assert float(found["coverage"][0]) == 1


def test_of_more_images_than_are_compared_pair_by_pair_the_first_are(monkeypatch):
    monkeypatch.setattr(distribution, "PAIRS", 30)
    made, real = noise(53, seed=1), noise(71, seed=2)
    found = filled(Quadrants(), made).estimates(Real(Quadrants(), Arrays(real), silent).against)
    all_of_them, some = (direct(quadrants(x), quadrants(real)) for x in (made, made[:30]))
    assert float(found["fd"][0]) == pytest.approx(all_of_them["fd"], rel=1e-9)
    for kind in KINDS - {"fd"}:
        assert float(found[kind][0]) == pytest.approx(some[kind], rel=1e-9), kind


def test_an_image_that_is_missing_or_described_twice_is_told():
    extractor, images = Quadrants(), noise(20)
    seen = Distribution(extractor, 20, CPU)
    seen.update(torch.arange(19), extractor(images[:19]))
    against = Real(extractor, Arrays(noise(20, seed=1)), silent).against
    with pytest.raises(ValueError, match="of 20 images, 1 have no features"):
        seen.estimates(against)
    seen.update(torch.tensor([3, 19]), extractor(images[[3, 19]]))
    with pytest.raises(ValueError, match="1 have been described more than once"):
        seen.estimates(against)
