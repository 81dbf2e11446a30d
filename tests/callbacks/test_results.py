"""One file keeps all scores of a run, each stage and time once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_avatars.callbacks.results import RecognitionQuality, write_result
from lightning_avatars.callbacks.run import Run
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.networks.recognizer import RecognitionNet
from tests.conf.training import fit, game


def trainer(folder, run=None, rank=0):
    callbacks = [] if run is None else [run]
    return SimpleNamespace(is_global_zero=rank == 0, default_root_dir=str(folder), callbacks=callbacks)


def module(images_seen):
    return SimpleNamespace(images_seen=images_seen)


def results(folder):
    return json.loads((folder / "results.json").read_text())["results"]


def test_results_are_added_and_one_of_the_same_stage_and_time_is_replaced(tmp_path):
    for stage, seen, score in [("val", 8, 1.0), ("val", 16, 2.0), ("test", 16, 3.0), ("val", 16, 4.0)]:
        write_result(trainer(tmp_path), module(seen), stage, {"scores": {"fd": score}})
    found = [(r["stage"], r["images_seen"], r["scores"]["fd"]) for r in results(tmp_path)]
    assert found == [("val", 8, 1.0), ("test", 16, 3.0), ("val", 16, 4.0)]
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_speed_of_training_is_kept_when_the_same_weights_are_scored_again(tmp_path, monkeypatch):
    run = Run(images=100)
    run.started, run.first = 1.0, 20
    monkeypatch.setattr(run, "training_seconds", lambda: 4.0)
    write_result(trainer(tmp_path, run), module(100), "val", {"scores": {}})
    write_result(trainer(tmp_path), module(100), "val", {"scores": {"again": 1.0}})
    (result,) = results(tmp_path)
    assert result["training"] == {"seconds": 4.0, "images_per_second": 20.0} and result["scores"] == {"again": 1.0}


def test_a_run_that_never_trained_tells_no_speed(tmp_path):
    write_result(trainer(tmp_path, Run(images=100)), module(0), "test", {"scores": {}})
    assert results(tmp_path)[0]["training"] is None


def test_only_the_first_process_writes(tmp_path):
    write_result(trainer(tmp_path / "run", rank=1), module(8), "val", {"scores": {}})
    assert not (tmp_path / "run").exists()


def test_what_json_can_not_say_is_refused_and_the_earlier_results_stay(tmp_path):
    write_result(trainer(tmp_path), module(8), "val", {"scores": {"fd": 1.0}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(trainer(tmp_path), module(16), "val", {"scores": {"fd": float("nan")}})
    assert [r["images_seen"] for r in results(tmp_path)] == [8]


def test_accuracies_of_a_recogniser_are_written_for_each_stage(tmp_path):
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(2)[torch.arange(8) % 2]
    batches = DataLoader([{"image": image, "labels": labels}], batch_size=None)
    torch.manual_seed(0)
    recognition = Recognition(RecognitionNet(16, 3, ["tone=dark", "tone=light"], width=4))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    runs = Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, callbacks=[RecognitionQuality()],
        enable_model_summary=False, num_sanity_val_steps=0, **quiet,
    )  # fmt: skip
    runs.fit(recognition, batches, batches)
    runs.test(recognition, batches, verbose=False)
    val, test = results(tmp_path)
    assert (val["stage"], test["stage"]) == ("val", "test") and val["images_seen"] == test["images_seen"] == 8
    assert set(val["scores"]) == set(test["scores"]) == {"accuracy", "accuracy/tone"}
    assert test["scores"] == {k.removeprefix("test/"): float(v) for k, v in runs.callback_metrics.items() if "/" in k}


def test_generators_are_left_to_their_own_callback(tmp_path):
    fit(game(), tmp_path, callbacks=[RecognitionQuality(), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()
