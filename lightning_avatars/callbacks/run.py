"""How long a run is and when it validates and saves, all in images; and how it ends when it is told to."""

from __future__ import annotations

import math
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.callbacks.guard import finite
from lightning_avatars.checkpoints import FOLDER, WholeFiles, by_age
from lightning_avatars.data.base import Batch
from lightning_avatars.disk import put_in_place
from lightning_avatars.evaluation.scores import direction
from lightning_avatars.signals import Signals
from lightning_avatars.strategies import PhaseDDP

BEST = "best.ckpt"
LISTEN_EVERY = 8  # batches, after which several processes tell each other of signals


class Run(Checkpoint):
    """Validate, save and stop at milestones in images; checkpoints go to the run's folder.

    On SIGTERM or SIGUSR1, to any of the processes, a checkpoint is saved after the batch and the run ends with the exit
    status 128 + the signal's number. A full disk costs checkpoints, and not the run.

    Args:
        images: Images after which the run ends.
        validate_every: Images between validations; one more is made at the end. 0 for that one only.
        save_every: Images between checkpoints; one more is made at the end. 0 for that one only.
        keep: Newest checkpoints that are kept.
        best: A logged score, such as val/fd_avatarnet_5k: the checkpoint where it was best is kept too, as best.ckpt.
        save_beside: Write checkpoints in another thread while training goes on.
    """

    def __init__(
        self,
        images: int = 1_000_000,
        validate_every: int = 100_000,
        save_every: int = 100_000,
        keep: int = 2,
        best: str | None = None,
        save_beside: bool = True,
    ) -> None:
        if images < 1 or validate_every < 0 or save_every < 0 or keep < 1:
            raise ValueError(
                "run.images and run.keep must be at least 1, run.validate_every and run.save_every at least 0; got "
                f"{images}, {keep}, {validate_every} and {save_every}"
            )
        self.images, self.validate_every, self.save_every, self.keep = images, validate_every, save_every, keep
        self.best, self.best_value = best, math.nan
        self.files, self.signals = WholeFiles(save_beside), Signals()
        self.due, self.told = False, 0
        self.started = self.paused = self.validation_started = 0.0
        self.first = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best"] == self.best:
            self.best_value = state_dict["best_value"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.files
        if stage != "fit":
            return
        interval = self.validate_every or self.images
        trainer.val_check_interval = math.ceil(interval / trainer.datamodule.batch_size)
        if trainer.is_global_zero:
            for unfinished in (Path(trainer.default_root_dir) / FOLDER).glob("*.part"):
                unfinished.unlink()  # of a run that was killed while saving

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.install()
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
        self.told = self.told or self.heard(trainer)
        crossed = self.save_every > 0 and seen // self.save_every != (seen - size) // self.save_every
        self.due = crossed or trainer.should_stop or bool(self.told)
        validates = trainer.enable_validation and (
            trainer.should_stop or (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_interval == 0
        )
        if self.due and not validates:  # a save before a validation would lose it on resuming
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused += time.monotonic() - self.validation_started
        self.validation_started = 0.0
        if trainer.sanity_checking or not self.started:
            return
        better = trainer.strategy.broadcast(self.is_better(trainer))
        if self.due or trainer.should_stop or better:
            self.save(trainer, pl_module, better)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.finish()

    def finish(self) -> None:
        """Wait for the last checkpoint and give the signals back."""
        self.files.finish()
        self.signals.remove()

    def heard(self, trainer: Trainer) -> int:
        """Return the number of a signal that any process has been sent; 0 for none."""
        number = self.signals.received or 0
        if trainer.world_size == 1:
            return number
        if (trainer.fit_loop.total_batch_idx + 1) % LISTEN_EVERY:
            return 0
        highest = torch.tensor(number, device=trainer.strategy.root_device)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

    def is_better(self, trainer: Trainer) -> bool:
        """Tell whether the score that is watched is better than ever before, and note it."""
        if self.best is None:
            return False
        if self.best not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if "/" in name)
            rank_zero_warn(f"run.best is {self.best!r}, which this validation did not log; it logged {known}")
            return False
        value, sign = float(trainer.callback_metrics[self.best]), direction(self.best.partition("/")[2])
        better = math.isfinite(value) and (math.isnan(self.best_value) or sign * value > sign * self.best_value)
        self.best_value = value if better else self.best_value
        return better

    def save(self, trainer: Trainer, module: LightningModule, better: bool = False) -> None:
        """Save a checkpoint; then end the run where a signal has asked for it."""
        self.due = False
        if not trainer.strategy.reduce_boolean_decision(finite(module)):
            rank_zero_warn(f"not saved after {module.images_seen:,} images: weights are no finite numbers any more")
        else:
            if isinstance(trainer.strategy, PhaseDDP):
                trainer.strategy.check_equal(module)
            path = Path(trainer.default_root_dir) / FOLDER / f"images_{module.images_seen:09d}.ckpt"
            self.files.then = partial(self.tidy, path, better)
            trainer.save_checkpoint(path)
        if self.told:
            self.files.finish()
            trainer.strategy.barrier()
            raise SystemExit(128 + self.told)

    def tidy(self, path: Path, better: bool) -> None:
        """Keep the newest checkpoints, and a link to the best one."""
        if better:
            link = path.with_name(f"{BEST}.part")
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without links
                shutil.copyfile(path, link)
            put_in_place(link, path.with_name(BEST))
        for old in by_age(path.parent.parent)[: -self.keep]:
            old.unlink()
