"""The file of scores: what goes in comes out, and JSON's limits are kept."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_avatars.evaluation.scores import (
    FEWEST,
    SCHEMA,
    Result,
    Score,
    check_enough,
    direction,
    named,
    read_results,
    size_name,
    write_results,
)
from lightning_avatars.metrics.intervals import jackknife
from tests.evaluation.arrays import Quadrants

NAN, INFINITY = math.nan, math.inf
VAL = {"stage": "val", "images_seen": 8}


def test_what_is_written_is_read(tmp_path):
    scores = {
        "fd_a_20": Score(1.5, (1.0, 2.0), 0.25, "a"),
        "mse_20": Score(0.1),
        "kd_a_20": Score(-1e-17, (-1.0, 1.0), 0.0, "a"),
    }
    result = Result("samples", scores, {"hair": 0.5}, 1.2345, {"images": 20, "reference": None})
    write_results(tmp_path / "deep/results.json", [{"stage": "val", "images_seen": 8} | result.plain()])
    (read,) = read_results(tmp_path / "deep/results.json")
    assert read == {
        "stage": "val", "images_seen": 8, "set": "samples", "seconds": 1.23, "accuracy": {"hair": 0.5},
        "passport": {"images": 20, "reference": None},
        "scores": {
            "fd_a_20": {"value": 1.5, "interval": [1.0, 2.0], "floor": 0.25, "extractor": "a"},
            "mse_20": {"value": 0.1, "interval": None, "floor": None, "extractor": None},
            "kd_a_20": {"value": -1e-17, "interval": [-1.0, 1.0], "floor": 0.0, "extractor": "a"},
        },
    }  # fmt: skip
    assert json.loads((tmp_path / "deep/results.json").read_text())["schema"] == SCHEMA == 2
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_what_is_no_number_is_null(tmp_path, value):
    scores = {
        "value": Score(value, (0.0, 1.0), 2.0),
        "low": Score(1.0, (value, 1.0)),
        "high": Score(1.0, (0.0, value)),
        "floor": Score(1.0, (0.0, 1.0), value),
    }
    write_results(tmp_path / "results.json", [VAL | Result("samples", scores, {}, 0.0, {}).plain()])
    read = read_results(tmp_path / "results.json")[0]["scores"]
    assert read["value"] == {"value": None, "interval": None, "floor": 2.0, "extractor": None}
    for end in ("low", "high"):
        assert read[end] == {"value": 1.0, "interval": None, "floor": None, "extractor": None}
    assert read["floor"] == {"value": 1.0, "interval": [0.0, 1.0], "floor": None, "extractor": None}


def test_an_error_while_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "results.json"
    entry = VAL | Result("samples", {}, {}, 0.0, {}).plain()
    write_results(path, [entry])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(path, [entry | {"stage": NAN}])
    assert read_results(path) == [entry]


def test_another_schema_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "results.json"
    for schema in (1, 3, "2", None):
        path.write_text(json.dumps({"schema": schema, "results": []}))
        with pytest.raises(ValueError, match=rf"results\.json has schema {schema}, this version reads 2: score"):
            read_results(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": 2}', '{"results": []}', "\x00"])
def test_a_file_of_something_else_is_refused_with_what_is_needed(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json holds no results: give a results\.json of a run"):
        read_results(path)


@pytest.mark.parametrize("results", [[3], {"a": 1}, "text", None])
def test_results_that_are_no_list_of_entries_are_refused(tmp_path, results):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"schema": 2, "results": results}))
    with pytest.raises(ValueError, match="holds no results"):
        read_results(path)


def test_scores_are_named_after_extractor_kind_and_number_of_images():
    less = torch.tensor([1.0, 2.0, 4.0]).double()
    value = torch.tensor(2.25).double()
    found = named({"fd": (value, less), "kd": (value, less)}, Quadrants(), 5000, {"fd": 0.5}, False)
    low, high = jackknife(less, value)
    assert low < 0 and found["fd_quadrants_5k"] == Score(2.25, (0.0, high), 0.5, "quadrants")
    assert found["kd_quadrants_5k"].floor is None
    error = math.sqrt(2 / 3 * ((less - less.mean()) ** 2).sum())
    assert found["kd_quadrants_5k"].interval == pytest.approx((2.25 - 4.3027 * error, 2.25 + 4.3027 * error))


def test_scores_of_diverged_images_are_nan_and_the_floor_stays():
    value = torch.tensor(2.0).double()
    score = named({"fd": (value, value.expand(3))}, Quadrants(), 20, {"fd": 0.5}, True)["fd_quadrants_20"]
    assert math.isnan(score.value) and score.floor == 0.5
    assert score.plain()["interval"] is None


@pytest.mark.parametrize(("count", "name"), [(5000, "5k"), (4999, "4999"), (20, "20"), (10_000, "10k"), (1000, "1k")])
def test_numbers_of_images_are_short_in_names(count, name):
    assert size_name(count) == name


def test_too_few_images_are_told_by_number():
    check_enough(FEWEST, "are there")
    with pytest.raises(ValueError, match="at least 10 images on either side, but only 9 are there"):
        check_enough(9, "are there")


def test_less_is_better_of_distances_alone():
    less = ["fid_5k", "fd_avatarnet_5k", "kid_5k", "kd_x_1k", "cmmd_5k", "copied_5k", "l1_2k", "mse_2k"]
    less += ["lpips_alex_2k"]
    more = ["is_5k", "precision_a_5k", "recall_a_5k", "density_a_5k", "coverage_a_5k", "class_score_avatarnet_5k"]
    more += ["psnr_2k", "ssim_2k", "ms_ssim_2k", "identity_arcface_2k", "accuracy_5k", "accuracy/hair"]
    more += ["changed_200", "kept_200", "miou_2k", "pixel_accuracy_2k"]
    assert {direction(name) for name in less} == {-1} and {direction(name) for name in more} == {1}
