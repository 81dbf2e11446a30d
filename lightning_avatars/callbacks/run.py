"""How long a run is and when it validates and saves, all in images."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_avatars.data.base import Batch

CHECKPOINTS = "checkpoints"


class Run(Checkpoint):
    """Validate, save and stop at milestones in images; checkpoints go to the run's folder.

    Args:
        images: Images after which the run ends.
        validate_every: Images between validations; one more is made at the end. 0 for that one only.
        save_every: Images between checkpoints; one more is made at the end. 0 for that one only.
        keep: Newest checkpoints that are kept.
    """

    def __init__(
        self, images: int = 1_000_000, validate_every: int = 100_000, save_every: int = 100_000, keep: int = 2
    ) -> None:
        if images < 1 or validate_every < 0 or save_every < 0 or keep < 1:
            raise ValueError(
                "run.images and run.keep must be at least 1, run.validate_every and run.save_every at least 0; got "
                f"{images}, {keep}, {validate_every} and {save_every}"
            )
        self.images, self.validate_every, self.save_every, self.keep = images, validate_every, save_every, keep
        self.due = False
        self.started = self.paused = self.validation_started = 0.0
        self.first = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            interval = self.validate_every or self.images
            trainer.val_check_interval = math.ceil(interval / trainer.datamodule.batch_size)
            if trainer.is_global_zero:
                for unfinished in (Path(trainer.default_root_dir) / CHECKPOINTS).glob("*.part"):
                    unfinished.unlink()  # of a run that was killed while saving

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.paused, self.first = time.monotonic(), 0.0, pl_module.images_seen
        trainer.should_stop = pl_module.images_seen >= self.images

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_started = time.monotonic()

    def training_seconds(self) -> float:
        """Seconds since training started here, validations aside."""
        return (self.validation_started or time.monotonic()) - self.started - self.paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        seen, size = pl_module.images_seen, trainer.datamodule.batch_size
        trainer.should_stop = trainer.should_stop or seen >= self.images
        crossed = self.save_every > 0 and seen // self.save_every != (seen - size) // self.save_every
        self.due = crossed or trainer.should_stop
        validates = trainer.enable_validation and (
            trainer.should_stop or (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_interval == 0
        )
        if self.due and not validates:  # a save before a validation would lose it on resuming
            self.save(trainer, seen)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused += time.monotonic() - self.validation_started
        self.validation_started = 0.0
        if (self.due or trainer.should_stop) and not trainer.sanity_checking:
            self.save(trainer, pl_module.images_seen)

    def save(self, trainer: Trainer, images_seen: int) -> None:
        """Write a checkpoint under a temporary name and rename it, so that no half-written one is ever seen."""
        self.due = False
        folder = Path(trainer.default_root_dir) / CHECKPOINTS
        path = folder / f"images_{images_seen:09d}.ckpt"
        temporary = path.with_suffix(".part")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            sync(temporary)
            temporary.replace(path)
            sync(folder)
            by_age = sorted(folder.glob("images_*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
            for old in by_age[: -self.keep]:
                old.unlink()
        trainer.strategy.barrier()


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
