"""What a run found goes into its ``results.json`` and its logs."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.disk import spared
from lightning_avatars.evaluation.passport import device_name, facts_of, versions
from lightning_avatars.evaluation.scores import Result, Score, read_results, write_results
from lightning_avatars.families.base import FaceModule
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.families.segmentation import Segmentation
from lightning_avatars.runs import RESULTS


class RecognitionQuality(Callback):
    """Write a recogniser's or a segmenter's accuracies into ``results.json``, after every validation and test."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module, "test")

    def write(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if isinstance(module, Recognition | Segmentation):
            metrics = trainer.callback_metrics.items()
            scores = {k.removeprefix(f"{stage}/"): Score(float(v)) for k, v in metrics if k.startswith(f"{stage}/")}
            data = trainer.datamodule
            passport = {
                "images": len(data.store.split(stage)),
                "reference": facts_of(StorePictures(data.store, data.store.split(stage), data.dataset.name), stage),
                "device": device_name(module.device),
                "versions": versions(),
            }
            name = "recognition" if isinstance(module, Recognition) else "segmentation"
            keep(trainer, module, stage, Result(name, scores, {}, 0.0, passport))


def publish(trainer: Trainer, module: FaceModule, stage: str, result: Result) -> None:
    """Log scores and their floors, those of samples by their bare names, and add them to ``results.json``."""
    prefix = stage if result.set == "samples" else f"{stage}/{result.set}"
    for name, score in result.scores.items():
        for key, value in ((name, score.value), (f"{name}_floor", score.floor)):
            if value is not None:
                module.log(
                    f"{prefix}/{key}", torch.tensor(value, dtype=torch.float32, device=module.device), sync_dist=True
                )
    module.log_clock()
    keep(trainer, module, stage, result)
    gc.collect()  # metrics hold themselves, and in some features hundreds of megabytes


def keep(trainer: Trainer, module: FaceModule, stage: str, result: Result) -> None:
    """Add a result to the run's ``results.json``, in place of one of the same stage, images seen and set."""
    if not trainer.is_global_zero:
        return
    path = Path(trainer.default_root_dir) / RESULTS
    kept = kept_results(path)
    same = [r for r in kept if (r["stage"], r["images_seen"], r["set"]) == (stage, module.images_seen, result.set)]
    training = training_speed(trainer, module) or next((r["training"] for r in same), None)
    facts: dict[str, Any] = {"stage": stage, "images_seen": module.images_seen, "training": training}
    with spared(f"the scores in {path}"):
        write_results(path, [*(r for r in kept if r not in same), facts | result.plain()])


def kept_results(path: Path) -> list[dict[str, Any]]:
    """Read earlier results; a file that can't be read is put aside, for a run must not end by it."""
    try:
        return read_results(path) if path.is_file() else []
    except ValueError as error:
        aside = path.with_suffix(".json.old")
        rank_zero_warn(f"{error}. It is kept as {aside.name}, and a new one is begun")
        path.replace(aside)
        return []


def training_speed(trainer: Trainer, module: FaceModule) -> dict[str, float] | None:
    """Seconds of training, and images per second; None where nothing was trained, or nobody knows for how long."""
    run = next((callback for callback in trainer.callbacks if isinstance(callback, Run)), None)
    images = module.images_seen - run.first_image if run is not None and run.started else 0
    if not images:
        return None
    seconds = run.training_seconds()
    return {"seconds": round(seconds, 1), "images_per_second": round(images / seconds, 1)}
