"""Scores of what a module makes of held-out pictures."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_avatars.callbacks.progress import tracker
from lightning_avatars.callbacks.results import publish
from lightning_avatars.data.base import Split
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.evaluation.extractors import load_extractor, load_extractors, load_perceptual
from lightning_avatars.evaluation.real import BLOCK, spread
from lightning_avatars.evaluation.reconstructions import Judges, makes_something, score_sets
from lightning_avatars.evaluation.scores import check_enough
from lightning_avatars.metrics.lpips import Backbone

MOST = 2_000


class ReconstructionQuality(Callback):
    """Score reconstructions and translations of held-out pictures at every validation and test.

    Modules say what they make of a picture (``evaluation_sets``); those that only sample make nothing. Where each
    image has a target: MSE, PSNR, SSIM, MS-SSIM (from 176 pixels on), LPIPS and the likeness of identities where asked
    for. As a set: Fréchet and kernel distance, precision, recall, density and coverage. Logged as
    ``val/reconstruction/psnr_2k``.

    Args:
        images: Held-out pictures that are shown, at most.
        extractors: Names or paths of extractors; by default the recogniser that suits the data.
        perceptual: LPIPS networks; their weights must be there (``lightning-avatars weights``).
        identity: Name or path of an extractor that recognises faces, such as arcface.
        block: Pictures shown at a time.
        enabled: Whether to score at all.
    """

    def __init__(
        self,
        images: int = MOST,
        extractors: str | list[str] | None = None,
        perceptual: Backbone | list[Backbone] | None = None,
        identity: str | None = None,
        block: int = BLOCK,
        enabled: bool = True,
    ) -> None:
        self.images, self.names, self.perceptual = images, extractors, perceptual
        self.identity, self.block, self.enabled = identity, block, enabled
        self.judges: Judges | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage == "predict" or not makes_something(pl_module):
            return
        data = trainer.datamodule
        self.judges = self.judges or Judges(
            load_extractors(self.names or [data.dataset.extractor]),
            load_perceptual(self.perceptual),
            load_extractor(self.identity) if self.identity else None,
        )
        split: Split = "test" if stage == "test" else "val"
        check_enough(min(self.images, len(data.store.split(split))), f"pictures of the {split} split are shown")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "test")

    def evaluate(self, trainer: Trainer, module: LightningModule, split: Split) -> None:
        """Score, log and write."""
        if self.judges is None or trainer.sanity_checking:
            return
        self.judges.to(module.device)
        data = trainer.datamodule
        index = data.store.split(split)
        pictures = StorePictures(data.store, index[spread(len(index), self.images).numpy()], data.dataset.name)
        for found in score_sets(module, pictures, split, self.judges, self.block, tracker(trainer)):
            publish(trainer, module, split, found.result)
