"""The file that keeps a run's scores."""

from __future__ import annotations

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_avatars.callbacks.run import Run
from lightning_avatars.families.base import FaceModule
from lightning_avatars.families.recognition import Recognition

SCHEMA = 1


class RecognitionQuality(Callback):
    """Write a recogniser's accuracies into ``results.json``, after every validation and test."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module, "test")

    def write(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if isinstance(module, Recognition):
            metrics = trainer.callback_metrics.items()
            scores = {k.removeprefix(f"{stage}/"): float(v) for k, v in metrics if k.startswith(f"{stage}/")}
            write_result(trainer, module, stage, {"scores": scores})


def write_result(trainer: Trainer, module: FaceModule, stage: str, result: dict[str, object]) -> None:
    """Add a result to the run's ``results.json``, in place of one of the same stage and images seen."""
    if not trainer.is_global_zero:
        return
    path = Path(trainer.default_root_dir) / "results.json"
    kept = json.loads(path.read_text())["results"] if path.is_file() else []
    same = [r for r in kept if (r["stage"], r["images_seen"]) == (stage, module.images_seen)]
    training = training_speed(trainer, module) or next((r["training"] for r in same), None)
    facts = {"stage": stage, "images_seen": module.images_seen, "training": training}
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"schema": SCHEMA, "results": [*(r for r in kept if r not in same), facts | result]}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(contents, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def training_speed(trainer: Trainer, module: FaceModule) -> dict[str, float] | None:
    """Seconds of training since this start, and images per second; None where nothing was trained."""
    run = next((callback for callback in trainer.callbacks if isinstance(callback, Run)), None)
    if run is None or not run.started:
        return None
    seconds = run.training_seconds()
    return {"seconds": round(seconds, 1), "images_per_second": round((module.images_seen - run.first) / seconds, 1)}
