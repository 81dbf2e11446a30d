"""Scores of what a module makes of held-out pictures."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_avatars.callbacks.progress import tracker
from lightning_avatars.callbacks.results import publish
from lightning_avatars.data.base import Split
from lightning_avatars.evaluation.changes import CHANGED, score_changes
from lightning_avatars.evaluation.extractors import load_extractor, load_extractors, load_perceptual
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.real import BLOCK
from lightning_avatars.evaluation.reconstructions import held_out, makes_something, score_sets
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.metrics.extractors.segmenter import load_segmenter
from lightning_avatars.metrics.lpips import Backbone

MOST = 2_000


class ReconstructionQuality(Callback):
    """Score reconstructions and translations of held-out pictures at every validation and test.

    Modules say what they make of a picture (``evaluation_sets``); those that only sample make nothing. Where each
    image has a target: L1, MSE, PSNR, SSIM, MS-SSIM (from 176 pixels on), LPIPS and the likeness of identities where
    asked for. As a set: Fréchet and kernel distance, precision, recall, density and coverage, of ways between domains
    against the pictures of the domain that they lead to. Logged as ``val/reconstruction/psnr_2k``.

    A test also scores the untranslated pictures, as ``a_to_b_untranslated``: what a translation must beat. Where labels
    are changed, a recogniser tells whether the changes show and the rest stays, as ``val/changes/changed_200``. Where
    pictures have label maps, a segmenter tells whether it finds them in the images: ``pixel_accuracy`` and ``miou``.

    Args:
        images: Held-out pictures that are shown, at most; of several domains, as many of each.
        extractors: Names or paths of extractors; by default the recogniser that suits the data.
        perceptual: LPIPS networks; their weights must be there (``lightning-avatars weights``).
        identity: Name or path of an extractor that recognises faces, such as arcface.
        segmenter: Path of a ``segmenter.safetensors`` that was trained on the label maps.
        changes: Held-out pictures whose labels are changed, at most; 0 for none.
        block: Pictures shown at a time.
        enabled: Whether to score at all.
    """

    def __init__(
        self,
        images: int = MOST,
        extractors: str | list[str] | None = None,
        perceptual: Backbone | list[Backbone] | None = None,
        identity: str | None = None,
        segmenter: Path | None = None,
        changes: int = CHANGED,
        block: int = BLOCK,
        enabled: bool = True,
    ) -> None:
        self.segmenter, self.changes = segmenter, changes
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
            load_segmenter(self.segmenter, data.mask_names) if self.segmenter is not None else None,
        )
        held_out(data, "test" if stage == "test" else "val", self.images)  # raises where there are too few

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "test")

    def evaluate(self, trainer: Trainer, module: LightningModule, split: Split) -> None:
        """Score, log and write."""
        if self.judges is None or trainer.sanity_checking:
            return
        self.judges.to(module.device)
        pictures, track = held_out(trainer.datamodule, split, self.images), tracker(trainer)
        judged = score_sets(
            module, pictures, split, self.judges, self.block, track, untranslated=split == "test"
        )  # fmt: skip
        results = [one.result for one in judged]
        if isinstance(module, AttributeTranslation) and self.changes:
            found = score_changes(module, pictures, split, self.judges.extractors, self.changes, self.block, track)
            results += [found] if found is not None else []
        for result in results:
            publish(trainer, module, split, result)
