"""How long a run is and when it validates and saves, all in images; and how it ends when it is told to."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.callbacks.guard import finite
from lightning_avatars.checkpoints import BEST, FOLDER, WholeFiles, by_age
from lightning_avatars.data.batches import Batch
from lightning_avatars.disk import put_in_place, spared
from lightning_avatars.evaluation.scores import direction
from lightning_avatars.launch import status
from lightning_avatars.memory import keep_freed_memory
from lightning_avatars.profiling import Unprofiled
from lightning_avatars.runs import set_aside
from lightning_avatars.schedules import crossed
from lightning_avatars.signals import Signals
from lightning_avatars.strategies import PhaseDDP

LISTEN_EVERY = 8  # batches, after which several processes tell each other of signals


class Run(Checkpoint):
    """Validate, save and stop at milestones in images; checkpoints go to the run's folder.

    On SIGTERM or SIGUSR1, to any of the processes, a checkpoint is saved after the batch (where there are several
    processes after at most eight) and the run ends with the exit status 128 + the signal's number. So the time of eight
    batches and of writing a checkpoint is enough between a signal and the end, but for validations: a process that is
    alone leaves one when the signal comes, and so does the first of those that Lightning started on one machine, which
    all end with it. Others end it first, for none of them may leave without the rest. Where the time is too short for
    that, nothing is lost: the checkpoint from before a validation knows that it is due, and the run that goes on makes
    it first. A full disk costs checkpoints, and not the run.

    Args:
        images: Images after which the run ends.
        validate_every: Images between validations; one more is made at the end. 0 for that one only.
        save_every: Images between checkpoints, beside those before each validation and at the end. 0 for those only.
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
        self.due, self.validation_due, self.told = False, False, 0
        self.started = self.paused = self.validation_started = 0.0
        self.trained: dict[str, float] | None = None  # what the checkpoint says that this run goes on from
        self.first_image = 0

    def state_dict(self) -> dict[str, Any]:
        trained = (
            {"seconds": self.training_seconds(), "first_image": self.first_image} if self.started else self.trained
        )
        best = {"best": self.best, "best_value": self.best_value}
        return best | {"validation_due": self.validation_due, "trained": trained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validation_due, self.trained = state_dict.get("validation_due", False), state_dict.get("trained")
        if state_dict["best"] == self.best:
            self.best_value = state_dict["best_value"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.files
        if stage != "fit":
            return
        keep_freed_memory()
        self.trained = None
        if type(trainer.profiler) is PassThroughProfiler:
            trainer.profiler = Unprofiled()
        self.signals.install()
        for owner, name in lightnings_signals(trainer):
            setattr(owner, name, lambda: None)
        trainer.val_check_interval = sys.maxsize  # batches, of which Lightning must not make validations by itself
        if trainer.is_global_zero:
            for unfinished in self.folder(trainer).glob("*.part"):
                unfinished.unlink()  # of a run that was killed while saving

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.listen(trainer)
        self.obey(trainer)  # there is nothing to save yet
        check_start(trainer, pl_module)
        trained = self.trained or {"seconds": 0.0, "first_image": pl_module.images_seen}
        self.first_image, self.paused = int(trained["first_image"]), 0.0
        self.started = time.monotonic() - trained["seconds"]
        trainer.should_stop = pl_module.images_seen >= self.images
        if trainer.is_global_zero:
            set_aside(Path(trainer.default_root_dir), pl_module.images_seen)
        if not (self.folder(trainer) / BEST).is_file():
            self.best_value = math.nan  # of another folder, or of a file that was removed
        if self.validation_due and trainer.enable_validation:
            self.validate(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_started = time.monotonic()
        if self.validation_due and all_end_with(trainer):
            self.signals.leave_at_once()

    def training_seconds(self) -> float:
        """Seconds that the weights were trained for since ``first_image``, interruptions and validations aside."""
        return (self.validation_started or time.monotonic()) - self.started - self.paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        seen, batches = pl_module.images_seen, trainer.fit_loop.total_batch_idx + 1
        before = seen - trainer.datamodule.batch_size
        trainer.should_stop = trainer.should_stop or seen >= self.images
        self.validation_due = trainer.enable_validation and (
            trainer.should_stop or crossed(self.validate_every, before, seen)
        )
        trainer.val_check_batch = batches if self.validation_due else batches + 1  # Lightning looks if it divides them
        if self.validation_due or trainer.world_size == 1 or batches % LISTEN_EVERY == 0:
            self.listen(trainer)
        self.due = trainer.should_stop or crossed(self.save_every, before, seen)
        if self.due or self.told or self.validation_due:
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused += time.monotonic() - self.validation_started
        self.validation_started = 0.0
        if trainer.sanity_checking or not self.started:
            return
        self.signals.at_once = self.validation_due = False
        if self.best is not None and trainer.is_global_zero:
            self.keep_best(trainer, pl_module)
        self.listen(trainer)
        if self.due or self.told or trainer.should_stop:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.finish(trainer)

    def finish(self, trainer: Trainer) -> None:
        """Wait for the last checkpoint and give the signals back."""
        self.files.finish()
        self.signals.remove()
        for owner, name in lightnings_signals(trainer):
            vars(owner).pop(name, None)

    def validate(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the validation that was due when the checkpoint was saved from which this run goes on."""
        self.due = True
        self.save(trainer, module)  # it may have come from another folder, or be the best one, which has another name
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True

    def listen(self, trainer: Trainer) -> None:
        """Note the number of a signal that any process has been sent."""
        number = self.signals.received or 0
        if trainer.world_size > 1:
            highest = torch.tensor(number, device=trainer.strategy.root_device)
            dist.all_reduce(highest, dist.ReduceOp.MAX)
            number = int(highest)
        self.told = self.told or number

    def obey(self, trainer: Trainer) -> None:
        """End the run, all processes together, where a signal has asked for it."""
        if self.told:
            self.files.finish()
            trainer.strategy.barrier()
            raise SystemExit(status(self.told))

    def score(self, trainer: Trainer) -> float:
        """Return the score that is watched, where it is better than ever before; else NaN."""
        if self.best not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if "/" in name)
            rank_zero_warn(f"run.best is {self.best!r}, which this validation did not log; it logged {known}")
            return math.nan
        value, sign = float(trainer.callback_metrics[self.best]), direction(self.best.partition("/")[2])
        better = math.isnan(self.best_value) or sign * value > sign * self.best_value
        return value if better and math.isfinite(value) else math.nan

    def keep_best(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the checkpoint from before this validation as the best one, if it is; only then note its score."""
        value, path = self.score(trainer), self.path(trainer, module)
        self.files.finish()
        if math.isnan(value) or not path.is_file():  # a file that could not be written was said to be missing
            return
        link = path.with_name(f"{BEST}.part")
        with spared(f"{BEST}, the checkpoint with the best {self.best}"):
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without links
                shutil.copyfile(path, link)
            put_in_place(link, path.with_name(BEST))
            self.best_value = value

    def folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / FOLDER

    def path(self, trainer: Trainer, module: LightningModule) -> Path:
        return self.folder(trainer) / f"images_{module.images_seen:09d}.ckpt"

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        """Save a checkpoint; then end the run where a signal has asked for it."""
        if not trainer.strategy.reduce_boolean_decision(finite(module)):
            rank_zero_warn(f"not saved after {module.images_seen:,} images: weights are no finite numbers any more")
        else:
            if isinstance(trainer.strategy, PhaseDDP):
                trainer.strategy.check_equal(module)
            path = self.path(trainer, module)
            self.files.then = partial(self.tidy, path)
            trainer.save_checkpoint(path)
        self.obey(trainer)

    def tidy(self, path: Path) -> None:
        """Remove all but the newest checkpoints, of which this is one."""
        for old in by_age(path.parent.parent)[: -self.keep]:
            old.unlink(missing_ok=True)


def lightnings_signals(trainer: Trainer) -> list[tuple[object, str]]:
    """List the methods by which Lightning handles signals, which are switched off while a run trains.

    Its handlers broadcast, or save in the middle of a batch. What only they could have set, processes tell each other
    in every batch.
    """
    return [
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ]


def all_end_with(trainer: Trainer) -> bool:
    """Tell whether no process is left behind when this one leaves: it is alone, or has started all the others."""
    launcher = trainer.strategy.launcher
    return trainer.world_size - 1 == (0 if launcher is None else len(launcher.procs))


def check_start(trainer: Trainer, module: LightningModule) -> None:
    """Raise, on all processes, where they would train from different places.

    Each finds the newest checkpoint for itself, and to one of them a file system may show a folder as it was.
    """
    own = (module.images_seen, module.seed)
    first = trainer.strategy.broadcast(own)
    if not trainer.strategy.reduce_boolean_decision(own == first):
        raise RuntimeError(
            "processes would go on from different checkpoints, for not all of them see the newest one: the first after "
            f"{first[0]:,} images with seed {first[1]}, this one after {own[0]:,} with {own[1]}. Start again in a "
            "minute, or name the checkpoint in --ckpt_path"
        )
