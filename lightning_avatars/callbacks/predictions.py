"""What ``predict`` writes: one picture, or one row of a table, for each test picture that something is made of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_avatars.data.batches import Batch
from lightning_avatars.images import to_picture


class Predictions(BasePredictionWriter):
    """Write predictions into the run's folder: images as ``<index>.png``, probabilities as a CSV per process.

    A prediction of some pictures of a batch alone has their ``index``.
    """

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        folder = Path(trainer.default_root_dir) / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        index = prediction.get("index", batch["index"]).tolist()
        for i, image in zip(index, prediction.get("image", ()), strict=False):
            to_picture(image).save(folder / f"{i:08d}.png")
        if "labels" in prediction:
            path = folder / f"labels_{trainer.global_rank}.csv"
            with path.open("w" if batch_idx == 0 else "a", newline="") as file:
                table = csv.writer(file)
                if batch_idx == 0:
                    table.writerow(["index", *pl_module.label_names])
                table.writerows([i, *row] for i, row in zip(index, prediction["labels"].tolist(), strict=True))
