"""Sheets of a module's images while it learns."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from lightning_avatars.data.batches import Batch
from lightning_avatars.disk import spared
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import save_sheet, to_bytes
from lightning_avatars.schedules import crossed


class Preview(Callback):
    """Write the module's named previews as PNG sheets and to the dashboard, at intervals in images.

    A preview is of images, N C H W, or of some versions of each, N V C H W, such as source, result and target of
    translations: these stand below each other.

    Args:
        every: Images between previews; one more is made when training ends. 0 for none at all.
        columns: Images in a row.
    """

    def __init__(self, every: int = 50_000, columns: int = 8) -> None:
        self.every, self.columns = every, columns
        self.latest: dict[str, Path] = {}
        self.written = -1
        self.batch: Batch | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        self.batch = batch
        seen, size = pl_module.images_seen, trainer.datamodule.batch_size
        if crossed(self.every, seen - size, seen):
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every and self.batch is not None and self.written != pl_module.images_seen:
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the sheets, on the first process only."""
        if not isinstance(module, GenerativeModule) or not trainer.is_global_zero:
            return
        self.written = module.images_seen
        folder = Path(trainer.default_root_dir) / "previews"
        for name, images in module.preview(self.batch).items():
            path = folder / f"{name}_{module.images_seen:09d}.png"
            with spared(f"the preview {path}"):
                save_sheet(*laid_out(to_bytes(images), self.columns), path)
                self.latest[name] = path
                for logger in trainer.loggers:
                    if isinstance(logger, WandbLogger):
                        logger.log_image(f"preview/{name}", [str(path)], step=module.images_seen)


def laid_out(images: Tensor, columns: int) -> tuple[Tensor, int]:
    """Put the versions of each image, N V C H W, below each other; images without versions stay as they are.

    Returns:
        Images in the order of a sheet, N C H W, and how many make a row.
    """
    if images.ndim == 4:
        return images, columns
    columns = min(columns, len(images))
    missing = -len(images) % columns
    white = images.new_full((missing, *images.shape[1:]), 255)
    rows = torch.cat([images, white]).unflatten(0, (-1, columns)).transpose(1, 2)
    return rows.flatten(0, 2), columns
