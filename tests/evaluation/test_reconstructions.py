"""Scores of what a module makes of real pictures, set by set and picture by picture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_avatars.data.pictures import FolderPictures
from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.real import Real
from lightning_avatars.evaluation.reconstructions import Judges, batch_of, score_folder_pairs, score_sets
from lightning_avatars.evaluation.samples import real_pictures
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import save_sheet, to_float
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
    batch = batch_of(pictures, slice(3, 6), CPU)
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


def folder(path, images) -> FolderPictures:
    for i, image in enumerate(images):
        save_sheet(image[None], 1, path / f"{i}.png")
    return FolderPictures(path)


def test_pictures_of_the_same_name_in_two_folders_are_pairs(tmp_path):
    a, b = noise(4, 1, 30), noise(5, 2, 30)
    made, real = folder(tmp_path / "made", a), folder(tmp_path / "real", b)
    scores = score_folder_pairs(made, real, Judges(identity=Quadrants(name="faces")), silent)
    assert scores.result.scores.keys() == {"l1_4", "mse_4", "psnr_4", "ssim_4", "identity_faces_4"}
    expected = torch.stack(
        [pairwise.mse(*(folder.one(f"{i}.png")[None] for folder in (made, real)))[0] for i in range(4)]
    )
    torch.testing.assert_close(scores.values["mse"], expected)
    assert scores.result.scores["mse_4"].value == pytest.approx(float(expected.mean()))
    assert torch.equal(scores.look(2)[0], made.one("2.png")) and scores.result.set == "pairs"


@pytest.mark.parametrize("sides", [(200, 40), (40, 200), (40, 12), (12, 40)])
def test_pairs_of_different_sizes_have_the_scores_that_all_of_them_can_have(tmp_path, sides):
    a, b = ([noise(1, seed, side)[0] for side in sides] for seed in (1, 2))
    scores = score_folder_pairs(folder(tmp_path / "made", a), folder(tmp_path / "real", b), Judges(), silent)
    assert scores.result.scores.keys() == {"l1_2", "mse_2", "psnr_2", "ssim_2"}


def test_pairs_of_two_sizes_and_folders_without_a_common_name_are_refused(tmp_path):
    made, real = folder(tmp_path / "made", noise(2, 1, 20)), folder(tmp_path / "real", noise(2, 2, 24))
    with pytest.raises(ValueError, match=r"0\.png is 20 x 20 and 24 x 24 pixels"):
        score_folder_pairs(made, real, Judges(), silent)
    (tmp_path / "other").mkdir()
    (tmp_path / "made/0.png").rename(tmp_path / "other/x.png")
    with pytest.raises(ValueError, match=r"no picture of .*made has the name of one in .*other: '1\.png' and 'x\.png'"):
        score_folder_pairs(FolderPictures(tmp_path / "made"), FolderPictures(tmp_path / "other"), Judges(), silent)
    with pytest.raises(ValueError, match="two folders"):
        score_folder_pairs(real, Arrays(noise(2)), Judges(), silent)
