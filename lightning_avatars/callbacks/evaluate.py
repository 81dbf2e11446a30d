"""Scores of a generator's samples while it learns, and whenever it is validated or tested."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_avatars.callbacks.progress import tracker
from lightning_avatars.callbacks.results import publish
from lightning_avatars.data.base import Split
from lightning_avatars.evaluation.extractors import load_extractors
from lightning_avatars.evaluation.real import BLOCK
from lightning_avatars.evaluation.samples import check_counts, default_count, real_pictures, score_samples
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.schedules import crossed


class SampleQuality(Callback):
    """Score the averaged generator at validation and test, and leave training untouched.

    Samples are made in blocks of seeds, so that they are the same on any number of processes, and described once by
    each extractor. In its features, all of these are told: Fréchet distance (``fd``), kernel distance (``kd``),
    precision, recall, density, coverage, and the class score where it knows classes; in those of Inception the names
    are ``fid``, ``kid`` and ``is``. ``copied`` is the estimated share of samples that are copies of training pictures.
    For conditional models there is also the share of attributes that came out as asked, where an extractor can name
    them. Scores are logged, such as ``val/fd_avatarnet_5k``, and written with intervals, floors and their passport to
    ``results.json`` in the run's folder.

    Args:
        images: Samples to draw; by default 5,000, or fewer where the data has fewer held-out pictures.
        extractors: Names such as avatarnet, mnistnet, inception, dinov2 and clip, or paths of an extractor's YAML or
            of a recogniser; by default the recogniser that suits the data.
        reference: Split that samples are compared with.
        every: Images between scores in fit, a multiple of ``run.validate_every``; 0 scores at every validation.
        block: Samples made at a time.
        enabled: Whether to score at all.
    """

    def __init__(
        self,
        images: int | None = None,
        extractors: str | list[str] | None = None,
        reference: Split = "train",
        every: int = 0,
        block: int = BLOCK,
        enabled: bool = True,
    ) -> None:
        if every < 0 or block < 1:
            raise ValueError(f"quality.every must be at least 0 and quality.block at least 1, got {every} and {block}")
        self.images, self.names, self.reference = images, extractors, reference
        self.every, self.block, self.enabled = every, block, enabled
        self.extractors: list[Extractor] = []
        self.scored_at: int | None = None  # images seen at the latest scores

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.enabled or stage == "predict" or not isinstance(pl_module, GenerativeModule):
            return
        if not pl_module.samples:
            return
        data = trainer.datamodule
        self.extractors = self.extractors or load_extractors(self.names or [data.dataset.extractor])
        self.real = real_pictures(data, self.reference)
        self.count = default_count(self.real) if self.images is None else self.images
        check_counts(self.count, self.real)

    def state_dict(self) -> dict[str, int | None]:
        return {"scored_at": self.scored_at}

    def load_state_dict(self, state_dict: dict[str, int | None]) -> None:
        self.scored_at = state_dict.get("scored_at")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.due(trainer, pl_module):
            self.evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "test")

    def due(self, trainer: Trainer, module: GenerativeModule) -> bool:
        """Tell whether a multiple of ``every`` was crossed since the latest scores; always outside of fit."""
        if not self.every or self.scored_at is None or trainer.should_stop or trainer.state.fn != TrainerFn.FITTING:
            return True  # the first one too, for callbacks that monitor a score must find it
        return crossed(self.every, self.scored_at, module.images_seen)

    def evaluate(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Score, log and write."""
        if not self.extractors or trainer.sanity_checking:
            return
        for extractor in self.extractors:
            extractor.to(module.device)
        result = score_samples(
            module, self.real, self.extractors, self.count, block=self.block, track=tracker(trainer)
        )  # fmt: skip
        self.scored_at = module.images_seen
        publish(trainer, module, stage, result)
