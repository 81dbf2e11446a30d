"""Sheets of a module's images while it learns."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_avatars.data.base import Batch
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import save_sheet, to_bytes


class Preview(Callback):
    """Write the module's named previews as PNG sheets and to the dashboard, at intervals in images.

    Args:
        every: Images between previews; one more is made when training ends. 0 for none at all.
        columns: Images in a row.
    """

    def __init__(self, every: int = 50_000, columns: int = 8) -> None:
        self.every, self.columns = every, columns
        self.latest: dict[str, Path] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        if not self.every or not isinstance(pl_module, GenerativeModule) or not trainer.is_global_zero:
            return
        seen, size = pl_module.images_seen, trainer.datamodule.batch_size
        if seen // self.every != (seen - size) // self.every or trainer.should_stop:
            self.write(trainer, pl_module, batch)

    def write(self, trainer: Trainer, module: GenerativeModule, batch: Batch) -> None:
        folder = Path(trainer.default_root_dir) / "previews"
        for name, images in module.preview(batch).items():
            path = folder / f"{name}_{module.images_seen:09d}.png"
            save_sheet(to_bytes(images), self.columns, path)
            self.latest[name] = path
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"preview/{name}", [str(path)], step=module.images_seen)
