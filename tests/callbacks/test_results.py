"""One file keeps all scores of a run, each stage and time once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.results import RecognitionQuality, keep, publish
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.base import FaceData
from lightning_avatars.evaluation.scores import Result, Score
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.networks.recognizer import RecognitionNet
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, game


def trainer(folder, run=None, rank=0):
    callbacks = [] if run is None else [run]
    return SimpleNamespace(is_global_zero=rank == 0, default_root_dir=str(folder), callbacks=callbacks)


def module(images_seen):
    return SimpleNamespace(images_seen=images_seen)


def results(folder):
    return json.loads((folder / "results.json").read_text())["results"]


def result(name="samples", **scores):
    return Result(name, {score: Score(value) for score, value in scores.items()}, {}, 0.5, {"images": 20})


def scored(value):
    return {"value": value, "interval": None, "floor": None, "extractor": None}


def test_results_are_added_and_one_of_the_same_stage_time_and_set_is_replaced(tmp_path):
    for stage, seen, name, score in [
        ("val", 8, "samples", 1.0), ("val", 16, "samples", 2.0), ("val", 16, "reconstruction", 5.0),
        ("test", 16, "samples", 3.0), ("val", 16, "samples", 4.0),
    ]:  # fmt: skip
        keep(trainer(tmp_path), module(seen), stage, result(name, fd=score))
    found = [(r["stage"], r["images_seen"], r["set"], r["scores"]["fd"]["value"]) for r in results(tmp_path)]
    assert found == [
        ("val", 8, "samples", 1.0), ("val", 16, "reconstruction", 5.0), ("test", 16, "samples", 3.0),
        ("val", 16, "samples", 4.0),
    ]  # fmt: skip
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_an_entry_has_what_the_schema_says(tmp_path):
    found = Result("samples", {"fd_a_20": Score(1.5, (1.0, 2.0), 0.5, "a")}, {"hair": 0.25}, 1.234, {"images": 20})
    keep(trainer(tmp_path), module(8), "val", found)
    assert results(tmp_path) == [
        {
            "stage": "val", "images_seen": 8, "training": None, "set": "samples", "accuracy": {"hair": 0.25},
            "scores": {"fd_a_20": {"value": 1.5, "interval": [1.0, 2.0], "floor": 0.5, "extractor": "a"}},
            "seconds": 1.23, "passport": {"images": 20},
        }
    ]  # fmt: skip


def test_the_speed_of_training_is_kept_when_the_same_weights_are_scored_again(tmp_path, monkeypatch):
    run = Run(images=100)
    run.started, run.first_image = 1.0, 20
    monkeypatch.setattr(run, "training_seconds", lambda: 4.0)
    keep(trainer(tmp_path, run), module(100), "val", result())
    keep(trainer(tmp_path), module(100), "val", result(again=1.0))
    (found,) = results(tmp_path)
    assert found["training"] == {"seconds": 4.0, "images_per_second": 20.0}
    assert found["scores"] == {"again": scored(1.0)}
    run.first_image = 100  # it went on from there, and has trained nothing since
    keep(trainer(tmp_path, run), module(100), "val", result())
    assert results(tmp_path)[0]["training"] == found["training"]
    keep(trainer(tmp_path / "moved", run), module(100), "val", result())
    assert results(tmp_path / "moved")[0]["training"] is None


def test_a_run_that_never_trained_tells_no_speed(tmp_path):
    keep(trainer(tmp_path, Run(images=100)), module(0), "test", result())
    assert results(tmp_path)[0]["training"] is None


def test_only_the_first_process_writes(tmp_path):
    keep(trainer(tmp_path / "run", rank=1), module(8), "val", result())
    assert not (tmp_path / "run").exists()


def test_scores_that_are_no_numbers_are_null(tmp_path):
    keep(trainer(tmp_path), module(8), "val", result(fd=float("nan"), kd=float("inf"), mse=1.0))
    assert results(tmp_path)[0]["scores"] == {"fd": scored(None), "kd": scored(None), "mse": scored(1.0)}


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ('{"schema": 1, "results": [{"stage": "val", "scores": {"fd": 1.0}}]}', "has schema 1, this version reads 2"),
        ('{"schema": 2, "results": [{"stage"', "holds no results"),
        ('{"schema": 2, "results": [{"scores": {}}]}', "holds no results"),
        ("", "holds no results"),
    ],
)
def test_earlier_results_that_can_not_be_read_are_put_aside_and_the_run_goes_on(tmp_path, old, said):
    (tmp_path / "results.json").write_text(old)
    with pytest.warns(UserWarning, match=rf"{said}.* It is kept as results\.json\.old, and a new one is begun"):
        keep(trainer(tmp_path), module(8), "val", result(fd=1.0))
    assert (tmp_path / "results.json.old").read_text() == old
    assert [r["scores"] for r in results(tmp_path)] == [{"fd": scored(1.0)}]
    keep(trainer(tmp_path), module(16), "val", result(fd=2.0))
    assert [r["images_seen"] for r in results(tmp_path)] == [8, 16]


def test_a_run_with_old_results_trains_to_its_end(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 1, "results": []}')
    with pytest.warns(UserWarning, match="has schema 1"):
        fit(game(), tmp_path, callbacks=[SampleQuality(images=20), Run(images=16, validate_every=8)])
    assert [r["images_seen"] for r in results(tmp_path)] == [8, 16] and (tmp_path / "results.json.old").is_file()


def test_samples_are_logged_by_bare_names_and_sets_under_theirs(tmp_path):
    logged = {}

    def log(name, value, **_):
        logged[name] = float(value)

    one = SimpleNamespace(images_seen=8, device="cpu", log=log, log_clock=lambda: None)
    scores = {"fd_a_20": Score(1.5, floor=0.5), "copied_20": Score(float("nan"))}
    publish(trainer(tmp_path), one, "val", Result("samples", scores, {}, 0.5, {}))
    publish(trainer(tmp_path), one, "test", Result("a_to_b", {"psnr_20": Score(20.0)}, {}, 0.5, {}))
    assert logged == pytest.approx(
        {"val/fd_a_20": 1.5, "val/fd_a_20_floor": 0.5, "val/copied_20": float("nan"), "test/a_to_b/psnr_20": 20.0},
        nan_ok=True,
    )


def test_accuracies_of_a_recogniser_are_written_for_each_stage(tmp_path):
    data = FaceData(TinyFaces(), resolution=8, batch_size=8, num_workers=0)
    torch.manual_seed(0)
    recognition = Recognition(RecognitionNet(16, 3, TinyFaces().label_names, width=4))
    runs = Trainer(
        accelerator="cpu", max_steps=2, default_root_dir=tmp_path, callbacks=[RecognitionQuality()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, val_check_interval=2, check_val_every_n_epoch=None,
    )  # fmt: skip
    runs.fit(recognition, data)
    runs.test(recognition, data, verbose=False)
    val, test = results(tmp_path)
    assert (val["stage"], test["stage"]) == ("val", "test") and val["images_seen"] == test["images_seen"] == 16
    assert val["set"] == test["set"] == "recognition" and test["passport"]["reference"]["split"] == "test"
    assert set(val["scores"]) == set(test["scores"]) == {"accuracy", "accuracy/colour", "accuracy/large"}
    logged = {k.removeprefix("test/"): float(v) for k, v in runs.callback_metrics.items() if k.startswith("test/")}
    assert test["scores"] == {name: scored(value) for name, value in logged.items()}


def test_generators_are_left_to_their_own_callback(tmp_path):
    fit(game(), tmp_path, callbacks=[RecognitionQuality(), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()
