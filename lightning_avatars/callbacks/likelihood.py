"""Scores of how likely held-out pictures are to a module, and of its codebook."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_avatars.callbacks.progress import tracker
from lightning_avatars.callbacks.results import publish
from lightning_avatars.data.base import Split
from lightning_avatars.evaluation.likelihoods import MOST, SAMPLES, knows_likelihoods, score_likelihood, shown
from lightning_avatars.evaluation.real import BLOCK


class LikelihoodQuality(Callback):
    """Score how likely held-out pictures are at every validation and test, and how a codebook is used.

    Of modules with a likelihood: the evidence lower bound and the importance-weighted bound in nats and in bits per
    dimension, and the rate. Of those with a codebook: the perplexity of its words and the share of them that held-out
    pictures use. Logged as ``val/likelihood/bpd_elbo_1k``; lower bounds of likelihoods are upper bounds here, but not
    those of deep belief networks: their ln Z is estimated by annealed importance sampling, in expectation too low, and
    with it nll and bpd may be too low as well.

    Args:
        images: Held-out pictures that are shown, at most.
        samples: Importance samples of each picture.
        block: Pictures shown at a time.
        enabled: Whether to score at all.
    """

    def __init__(self, images: int = MOST, samples: int = SAMPLES, block: int = BLOCK, enabled: bool = True) -> None:
        if samples < 1 or block < 1:
            raise ValueError(f"likelihood.samples and likelihood.block must be at least 1, got {samples} and {block}")
        self.images, self.samples, self.block, self.enabled = images, samples, block, enabled

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.enabled and stage != "predict" and knows_likelihoods(pl_module):
            shown(trainer.datamodule, "test" if stage == "test" else "val", self.images)  # raises where there are few

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "test")

    def evaluate(self, trainer: Trainer, module: LightningModule, split: Split) -> None:
        """Score, log and write."""
        if not self.enabled or trainer.sanity_checking or not knows_likelihoods(module):
            return
        data = trainer.datamodule
        pictures, border = shown(data, split, self.images), data.dataset.border(data.resolution)
        found = score_likelihood(module, pictures, split, self.samples, border, self.block, tracker(trainer))
        if found is not None:
            publish(trainer, module, split, found)
