"""Scores of samples: the same in any blocks, said to be what they are, and refused where there is nothing to say."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from lightning_avatars.data.pictures import FolderPictures
from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.real import Real, spread
from lightning_avatars.evaluation.samples import (
    Drawn,
    RealPictures,
    default_count,
    real_pictures,
    score_pictures,
    score_samples,
)
from lightning_avatars.images import save_sheet
from tests.conf.training import game
from tests.evaluation.arrays import LABELS, Arrays, Quadrants, Shower, noise, quadrants, silent, tiny_data

TRAIN, HELD_OUT = noise(90, 1, 16), noise(60, 2, 16)
REAL = RealPictures(Arrays(TRAIN), "train", Arrays(TRAIN), Arrays(HELD_OUT))
KINDS = {"fd", "kd", "precision", "recall", "density", "coverage"}


def scored(images, real=REAL, extractors=None, **options):
    return score_samples(Shower(images), real, extractors or [Quadrants()], len(images), track=silent, **options)


def test_all_scores_come_from_one_description_of_each_picture():
    first, second = Quadrants(), Quadrants(2.0, knows=True, name="twice")
    for extractor in (first, second):
        for pictures in (TRAIN, HELD_OUT):
            assert Real(extractor, Arrays(pictures), silent).against
        extractor.seen = 0
    result = scored(noise(53, 3, 16), extractors=[first, second], block=10)
    assert first.seen == second.seen == 53
    names = {f"{kind}_{name}_53" for kind in KINDS for name in ("quadrants", "twice")}
    assert result.scores.keys() == names | {"class_score_twice_53", "copied_53"}
    assert {score.extractor for score in result.scores.values()} == {"quadrants", "twice", "pixels"}
    assert result.set == "samples" and result.accuracy == {} and result.seconds > 0


def test_values_and_intervals_are_those_of_the_estimates():
    images = noise(53, 3, 16)
    seen, extractor = Distribution(Quadrants(), 53, torch.device("cpu")), Quadrants()
    seen.update(torch.arange(53), extractor(images))
    result = scored(images)
    for kind, (value, less) in seen.estimates(Real(Quadrants(), Arrays(TRAIN), silent).against).items():
        score = result.scores[f"{kind}_quadrants_53"]
        assert score.value == pytest.approx(float(value), rel=1e-9)
        half = 2.2622 * math.sqrt(float(0.9 * (less - less.mean()).square().sum()))
        low, high = float(value) - half, float(value) + half
        low = low if kind == "kd" else max(low, 0.0)  # what is possible
        high = min(high, 1.0) if kind in ("precision", "recall", "coverage") else high
        assert score.interval == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_the_floor_is_what_as_many_held_out_pictures_score():
    result, floor = scored(noise(40, 3, 16)), scored(HELD_OUT[spread(len(HELD_OUT), 40)])
    for kind in KINDS:
        name = f"{kind}_quadrants_40"
        assert result.scores[name].floor == pytest.approx(floor.scores[name].value, rel=1e-9, abs=1e-12)
    assert result.scores["copied_40"].floor is None


def test_there_is_no_floor_where_fewer_pictures_are_held_out_than_scored():
    result = scored(noise(61, 3, 16))
    assert {score.floor for score in result.scores.values()} == {None} and "copied_61" in result.scores


def test_without_held_out_pictures_there_is_neither_floor_nor_copy_check():
    result = scored(noise(40, 3, 16), RealPictures(Arrays(TRAIN)))
    assert result.scores.keys() == {f"{kind}_quadrants_40" for kind in KINDS}
    assert result.passport["held_out"] is None and {score.floor for score in result.scores.values()} == {None}


def test_real_pictures_score_their_floor_and_others_score_worse():
    chosen = HELD_OUT[spread(len(HELD_OUT), 50)]
    good, bad = scored(chosen).scores, scored(chosen // 3).scores
    assert good["fd_quadrants_50"].value == pytest.approx(good["fd_quadrants_50"].floor, rel=1e-9)
    assert bad["fd_quadrants_50"].value > 20 * good["fd_quadrants_50"].value
    assert bad["precision_quadrants_50"].value < good["precision_quadrants_50"].value


@pytest.mark.parametrize("block", [1, 7, 53, 100])
def test_blocks_do_not_matter(block):
    module, real = game(), RealPictures(Arrays(noise(60)), None, Arrays(noise(60)), Arrays(noise(60, 1)))
    found = [score_samples(module, real, [Quadrants()], 53, block=size, track=silent).scores for size in (block, 8)]
    for name, score in found[0].items():
        assert score.value == pytest.approx(found[1][name].value, rel=1e-4, abs=1e-7), name


def test_samples_are_those_of_the_seeds_and_labels():
    module = game(conditional=True)
    module.label_names, module.label_rows = LABELS, torch.eye(3)
    drawn = Drawn(module, 20)
    seeds = torch.arange(5, 9)
    assert torch.equal(drawn.labels(slice(5, 9)), module.draw_labels(seeds))
    expected = (module.sample(seeds) + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(drawn.read(slice(5, 9)), expected) and drawn.finite
    rows = torch.tensor([[0, 1, 1.0]]).numpy()
    assert Drawn(module, 20, label_rows=rows).labels(slice(0, 4)).tolist() == [[0, 1, 1]] * 4


def test_labels_are_judged_by_the_extractor_that_knows_them_all():
    module = Shower(TRAIN)
    module.conditional, module.label_names = True, LABELS
    asked = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.float32)
    module.label_rows = asked
    module.draw_labels = lambda seeds: asked[seeds % 2]
    judge = Quadrants(knows=True, name="judge")
    real = RealPictures(Arrays(TRAIN))
    result = score_samples(module, real, [Quadrants(), judge], 40, block=7, track=silent)
    red, blue = (quadrants(TRAIN[:40])[:, c].mean(1) for c in (slice(0, 4), slice(8, 12)))
    even = torch.arange(40) % 2 == 0
    share = float(((red > blue) == even).float().mean())
    large = float(((0.8 - quadrants(TRAIN[:40]).mean(1) > 0) != even).float().mean())
    assert result.accuracy == pytest.approx({"colour": share, "large": large})
    score = result.scores["accuracy_40"]
    assert score.value == pytest.approx((share + large) / 2) and score.extractor == "judge"
    unknown = score_samples(module, real, [Quadrants()], 40, track=silent)
    assert unknown.accuracy == {} and "accuracy_40" not in unknown.scores


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_generator_that_diverged_has_named_nans_and_a_warning(value):
    class Diverged(Shower):
        def sample(self, seeds, labels=None, truncation_psi=1.0):
            images = super().sample(seeds, labels)
            return images.masked_fill((seeds == 33)[:, None, None, None], value)

    module = Diverged(TRAIN)
    module.conditional, module.label_names, module.label_rows = True, LABELS, torch.eye(3)
    extractors = [Quadrants(), Quadrants(knows=True, name="judge")]
    with pytest.warns(UserWarning, match="samples are not finite: the generator has diverged, its scores are nan"):
        result = score_samples(module, REAL, extractors, 40, block=10, track=silent)
    well = score_samples(Diverged(TRAIN), REAL, extractors, 30, block=10, track=silent)
    same = {name.removesuffix("_30") for name in well.scores} | {"accuracy"}
    assert {name.removesuffix("_40") for name in result.scores} == same
    for name, score in result.scores.items():
        assert math.isnan(score.value) and score.plain()["value"] is score.plain()["interval"] is None, name
    assert math.isfinite(result.scores["fd_quadrants_40"].floor) and result.accuracy == {}


def test_scoring_is_silent_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(noise(40, 3, 16))


def test_random_numbers_and_modes_are_left_as_they_were():
    module = game(normalized=True).train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    score_samples(module, REAL, [Quadrants()], 20, block=8, track=silent)
    assert torch.equal(torch.get_rng_state(), before) and module.training and module.generator.training


@pytest.mark.parametrize("bad", ["samples", "reference"])
def test_too_few_images_are_refused_before_anything_is_drawn(bad):
    module = Shower(TRAIN)
    module.sample = lambda *_: pytest.fail("drawn")
    real = RealPictures(Arrays(TRAIN[:9] if bad == "reference" else TRAIN, "faces"))
    said = "9 real pictures of faces" if bad == "reference" else "only 9 are to be scored"
    with pytest.raises(ValueError, match=rf"at least 10 images on either side.*{said}"):
        score_samples(module, real, [Quadrants()], 9 if bad == "samples" else 20, track=silent)


def test_ten_images_against_ten_are_enough():
    result = scored(TRAIN[:10], RealPictures(Arrays(TRAIN[:10]), None, Arrays(TRAIN), Arrays(HELD_OUT)))
    assert all(math.isfinite(score.value) for score in result.scores.values()), result.scores
    assert all(score.plain()["interval"] for score in result.scores.values())


def test_splits_of_a_dataset_have_their_parts():
    data = tiny_data()
    counts = data.store.counts()
    for split, held_out in (("train", "val test"), ("val", "test"), ("test", "val")):
        real = real_pictures(data, split)
        assert (real.split, len(real.reference), len(real.train)) == (split, counts[split], counts["train"])
        assert len(real.held_out) == sum(counts[name] for name in held_out.split())
        assert len(real.label_rows) == len(real.train) + len(real.held_out)
    nothing = real_pictures(tiny_data(split=(0.95, 0.05, 0.0)))
    assert nothing.held_out is None


@pytest.mark.parametrize(
    ("held_out", "count"), [(60_000, 5000), (5000, 5000), (4999, 2000), (3000, 2000), (999, 500), (499, 499), (30, 30)]
)
def test_the_default_number_of_samples_suits_the_held_out_pictures(held_out, count):
    few = RealPictures(Arrays(TRAIN), held_out=Arrays(torch.zeros(held_out, 1, 1, 1, dtype=torch.uint8)))
    assert default_count(few) == count


def test_without_held_out_pictures_the_reference_decides_how_many_samples():
    assert default_count(RealPictures(Arrays(torch.zeros(2500, 1, 1, 1, dtype=torch.uint8)))) == 2000


def test_pictures_in_folders_of_any_size_are_scored(tmp_path):
    for folder, seed in (("made", 1), ("real", 2)):
        for i in range(24):
            image = noise(1, 100 * seed + i, 8 + i % 3)
            save_sheet(image, 1, tmp_path / folder / f"{i:02}.png")
    made, real = (FolderPictures(tmp_path / name) for name in ("made", "real"))
    found = score_pictures(made, RealPictures(real), [Quadrants()], silent)
    assert found.scores.keys() == {f"{kind}_quadrants_24" for kind in KINDS}
    same = score_pictures(made, RealPictures(made), [Quadrants()], silent)
    assert abs(same.scores["fd_quadrants_24"].value) < 1e-6 < found.scores["fd_quadrants_24"].value
    assert same.scores["precision_quadrants_24"].value == 1
