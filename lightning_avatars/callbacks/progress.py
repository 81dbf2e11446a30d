"""A progress bar in images, and the summary that ends a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.batches import Batch
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import FaceModule

T = TypeVar("T")
REFRESH = 0.5  # seconds between two looks of the bar


class ImageProgress(ProgressBar):
    """Show images seen, images per second, time left and the latest score; end with a table of scores and paths."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tell_need(trainer, pl_module)
        self.started, self.first = time.monotonic(), pl_module.images_seen
        self.shown = 0.0
        self.total = next(c.images for c in trainer.callbacks if isinstance(c, Run))
        if not (self.enabled and trainer.is_global_zero):
            return
        self.bar = Progress(
            BarColumn(bar_width=14),
            TextColumn("{task.fields[kimg]}, {task.fields[rate]},"),
            TimeRemainingColumn(),
            TextColumn("left {task.fields[score]}"),
            console=self.console,
            auto_refresh=False,  # a thread that draws ten times a second takes its time from training
        )
        self.task = self.bar.add_task("training", total=self.total, completed=self.first, kimg="", rate="…", score="")
        self.bar.start()

    def tell_need(self, trainer: Trainer, module: FaceModule) -> None:
        """Say how much memory the run will need, before it is needed."""
        if not (self.enabled and trainer.is_global_zero):
            return
        data = trainer.datamodule
        images = data.batch_size // trainer.world_size
        try:
            need = module.memory_need(images, data.channels, data.resolution)
        except Exception as error:  # what a term does with numbers, an estimate without numbers may not be able to
            self.console.print(f"memory for training: not known ({type(error).__name__})")
            return
        if need is None:
            return
        self.console.print(f"memory for training: {need}")
        if module.device.type == "cuda" and sum(need) > (free := torch.cuda.mem_get_info(module.device)[0]):
            rank_zero_warn(
                f"{free / 2**30:.1f} GiB are free on {module.device}, which may be too little: set model.micro_batch "
                f"below {images}, or name parts in model.recompute"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self.bar is None or now - self.shown < REFRESH:
            return
        self.shown = now
        seen = pl_module.images_seen
        rate = (seen - self.first) / (now - self.started)
        self.bar.update(
            self.task,
            completed=seen,
            kimg=f"{seen / 1000:,.1f}/{self.total / 1000:,.0f} kimg",
            rate=f"{rate:,.0f} images/s",
            refresh=True,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            headline = ((name, value) for name, value in self.scores(trainer).items() if is_headline(name))
            self.bar.update(self.task, score=" ".join(f"{name} {value:.3g}" for name, value in headline), refresh=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is None:
            return
        self.bar.update(self.task, completed=pl_module.images_seen)
        self.bar.stop()
        self.bar = None
        seconds = time.monotonic() - self.started
        self.console.print(f"{pl_module.images_seen:,} images in {seconds:,.0f} s")
        scores = self.scores(trainer)
        table = Table("score", "value", "floor")
        for name in (name for name in scores if not name.endswith("_floor")):
            floor = scores.get(f"{name}_floor")
            table.add_row(name, f"{scores[name]:.4g}", "" if floor is None else f"{floor:.4g}")
        if table.row_count:
            self.console.print(table)
        for preview in (c for c in trainer.callbacks if isinstance(c, Preview)):
            for name, path in preview.latest.items():
                self.console.print(f"{name}: [bold]{path}[/bold]", soft_wrap=True)
        self.console.print(f"run: [bold]{Path(trainer.default_root_dir)}[/bold]", soft_wrap=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.stop()

    def follow(self, items: Sequence[T], description: str) -> Iterator[T]:
        """Show a bar of its own, above that of the training, while items of an evaluation pass."""
        if self.bar is None:
            yield from items
            return
        task = self.bar.add_task(description, total=len(items), kimg=description, rate="", score="")
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            due = now - self.shown >= REFRESH
            self.shown = now if due else self.shown
            self.bar.update(task, completed=done, rate=f"{done}/{len(items)}", refresh=due)
        self.bar.remove_task(task)

    def scores(self, trainer: Trainer) -> dict[str, float]:
        return {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


def tracker(trainer: Trainer) -> Track:
    """Choose how an evaluation shows how far it is: beside the training's bar, or on the screen."""
    bars = [c for c in trainer.callbacks if isinstance(c, ImageProgress) and c.bar is not None]
    return bars[0].follow if bars else on_screen


def is_headline(name: str) -> bool:
    """Tell whether a score is worth a place in the bar: not a floor, and not one attribute of many."""
    return name.startswith(("fd_", "fid", "accuracy")) and "/" not in name and not name.endswith("_floor")
