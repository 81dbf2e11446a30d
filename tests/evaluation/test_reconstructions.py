"""Scores of what a module makes of real pictures, set by set and picture by picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.real import Real
from lightning_avatars.evaluation.reconstructions import score_sets
from lightning_avatars.evaluation.samples import real_pictures
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import to_float
from lightning_avatars.metrics import pairwise
from tests.evaluation.arrays import Arrays, Quadrants, Shower, Translator, noise, silent, tiny_data

CPU = torch.device("cpu")
KINDS = {"fd", "kd", "precision", "recall", "density", "coverage"}


@pytest.fixture(scope="module")
def pictures():
    return real_pictures(tiny_data()).held_out


def scored(module, pictures, block=8, judges=None):
    judges = judges or Judges([Quadrants()], [], Quadrants(name="faces"))
    return {one.result.set: one for one in score_sets(module, pictures, "test", judges, block, silent)}


def test_each_set_has_the_scores_that_it_can_have(pictures):
    found, count = scored(Translator(noise(20)), pictures), len(pictures)
    in_features = {f"{kind}_quadrants_{count}" for kind in KINDS}
    of_pairs = {f"{name}_{count}" for name in ("l1", "mse", "psnr", "ssim", "identity_faces")}
    assert found["reconstruction"].result.scores.keys() == in_features | of_pairs
    assert found["upside_down"].result.scores.keys() == in_features and found["upside_down"].values == {}
    assert found["unjudged"].result.scores == {} and list(found) == ["reconstruction", "upside_down", "unjudged"]
    assert {score.floor for one in found.values() for score in one.result.scores.values()} <= {None}


def test_scores_of_pairs_are_those_of_the_images_and_their_targets(pictures):
    class Darker(Shower):
        def evaluation_sets(self, batch):
            return {"darker": EvaluationSet(to_float(batch["image"] // 2), batch["image"])}

    (one,) = scored(Darker(noise(20)), pictures).values()
    real = pictures.read(slice(0, len(pictures)))
    expected = {"mse": pairwise.mse(real // 2, real), "psnr": pairwise.psnr(real // 2, real)}
    for name, values in expected.items():
        torch.testing.assert_close(one.values[name], values)
        score = one.result.scores[f"{name}_{len(pictures)}"]
        assert score.value == pytest.approx(float(values.mean())) and score.interval[0] < score.value
    made, target = one.look(len(pictures) - 1)
    assert torch.equal(target, real[-1]) and torch.equal(made, real[-1] // 2)


def test_scores_in_features_are_those_against_the_reference(pictures):
    (_, one, _) = scored(Translator(noise(20)), pictures).values()
    real = pictures.read(slice(0, len(pictures)))
    seen, extractor = Distribution(Quadrants(), len(real), CPU), Quadrants()
    seen.update(torch.arange(len(real)), extractor(real.flip(2)))
    for kind, (value, _) in seen.estimates(Real(extractor, Arrays(real.flip(3)), silent).against).items():
        found = one.result.scores[f"{kind}_quadrants_{len(real)}"]
        assert found.value == pytest.approx(float(value), rel=1e-9, abs=1e-12), kind


def test_a_perfect_reconstruction_has_the_best_scores(pictures):
    class Perfect(Shower):
        def evaluation_sets(self, batch):
            return {"same": EvaluationSet(to_float(batch["image"]), batch["image"])}

    scores, count = scored(Perfect(noise(20)), pictures)["same"].result.scores, len(pictures)
    assert scores[f"mse_{count}"].value == 0 and scores[f"ssim_{count}"].value == pytest.approx(1)
    assert scores[f"psnr_{count}"].value == pytest.approx(10 * math.log10(255**2 * 3 * 64))
    assert scores[f"identity_faces_{count}"].value == pytest.approx(1)
    assert abs(scores[f"fd_quadrants_{count}"].value) < 1e-6 and scores[f"recall_quadrants_{count}"].value == 1


def test_batches_are_those_of_the_store(pictures):
    batch = pictures.batch(slice(3, 6), CPU)
    index = pictures.index[3:6]
    assert batch["index"].tolist() == index.tolist()
    assert torch.equal(batch["image"], torch.from_numpy(pictures.store.read(index)))
    assert torch.equal(batch["labels"], torch.from_numpy(pictures.store.labels[index]))


def test_the_same_numbers_come_twice_and_a_picture_that_is_looked_at_is_the_one_that_was_scored(pictures):
    first, again = (scored(Translator(noise(20)), pictures)["reconstruction"] for _ in range(2))
    for name, values in first.values.items():
        assert torch.equal(values, again.values[name])
    for place in (0, 7, 8, len(pictures) - 1):
        made, target = first.look(place)
        expected = float(pairwise.mse(made[None], target[None]))
        assert float(first.values["mse"][place]) == pytest.approx(expected, rel=1e-12)


def test_random_numbers_and_modes_are_left_as_they_were(pictures):
    class Dropped(Translator):
        def __init__(self, images):
            super().__init__(images)
            self.parts = nn.ModuleDict({"learns": nn.Dropout(0.5), "frozen": nn.Dropout(0.5).eval()})
            self.modes = set()

        def evaluation_sets(self, batch):
            self.modes.add((self.training, self.parts["learns"].training))
            assert not torch.is_grad_enabled()
            return super().evaluation_sets(batch)

    module = Dropped(noise(20))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    scored(module, pictures)
    assert torch.equal(torch.get_rng_state(), before) and module.modes == {(False, False)}
    assert module.training and module.parts["learns"].training
    assert not module.parts["frozen"].training, "a frozen part must not be set to train by being scored"
    module.eval()
    scored(module, pictures)
    assert not module.training


def test_a_family_that_only_samples_has_no_sets(pictures):
    assert scored(Shower(noise(20)), pictures) == {}


def test_images_that_are_not_finite_have_named_nans_and_a_warning(pictures):
    class Diverged(Translator):
        def evaluation_sets(self, batch):
            sets = super().evaluation_sets(batch)
            bad = sets["reconstruction"].images.masked_fill(
                (batch["index"] == pictures.index[-1])[:, None, None, None], math.nan
            )
            return sets | {"reconstruction": sets["reconstruction"]._replace(images=bad)}

    with pytest.warns(UserWarning, match="images of reconstruction are not finite"):
        found = scored(Diverged(noise(20)), pictures)
    bad, good = (found[name].result.scores.values() for name in ("reconstruction", "upside_down"))
    assert len(bad) == 11 and all(math.isnan(score.value) for score in bad)
    assert all(score.plain()["value"] is score.plain()["interval"] is None for score in bad)
    assert all(math.isfinite(score.value) for score in good)
