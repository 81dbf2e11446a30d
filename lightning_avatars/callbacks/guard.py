"""Watches a run for what can't get better by itself: numbers that are none, a player that has won, one image only."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.checkpoints import last_good
from lightning_avatars.data.base import Batch
from lightning_avatars.families.base import FaceModule, GenerativeModule
from lightning_avatars.images import to_float

EXPLODED = 1e6  # a loss beyond which nothing is learned
WON = 1e-3  # the discriminator's loss below which the generator gets no gradient
CHECKS = 5  # in a row
ALIKE, VARIED = 0.05, 0.15  # spread of samples over spread of pictures
PATIENT = 200_000  # images after which a generator should have learned to vary
SAMPLES = 16


class Diverged(RuntimeError):  # noqa: N818 - what happened
    """A run can't go on: its weights are no numbers any more."""


class Rollback(Exception):  # noqa: N818 - what is to be done
    """A run shall go on from its last good checkpoint with another seed.

    Args:
        checkpoint: What to go back to.
        seed: The seed to go on with.
        left: How often this may happen again.
        why: What was seen.
    """

    def __init__(self, checkpoint: Path, seed: int, left: int, why: str) -> None:
        super().__init__(why)
        self.checkpoint, self.seed, self.left = checkpoint, seed, left


class Guard(Callback):
    """Look at losses, weights and samples every so many images; say what is wrong and what may help.

    Weights that are no numbers end the run, and its checkpoints stay; or it goes back to the last good one and on with
    another seed. Exploding losses, a discriminator that has won and samples that are all alike are said, and no more.

    Args:
        every: Images between looks; 0 for none.
        rollbacks: How often the run may go back to its last good checkpoint.
    """

    def __init__(self, every: int = 5_000, rollbacks: int = 0) -> None:
        if every < 0 or rollbacks < 0:
            raise ValueError(f"guard.every and guard.rollbacks must be at least 0, got {every} and {rollbacks}")
        self.every, self.rollbacks = every, rollbacks
        self.exploded, self.won, self.alike, self.varied = 0, 0, 0, False

    def state_dict(self) -> dict[str, int | bool]:
        return {"exploded": self.exploded, "won": self.won, "alike": self.alike, "varied": self.varied}

    def load_state_dict(self, state_dict: dict[str, int | bool]) -> None:
        self.exploded, self.won, self.alike = (state_dict[name] for name in ("exploded", "won", "alike"))
        self.varied = bool(state_dict["varied"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        seen, size = pl_module.images_seen, trainer.datamodule.batch_size
        if not self.every or seen // self.every == (seen - size) // self.every:
            return
        logged = trainer.callback_metrics.items()
        losses = {name: float(value) for name, value in logged if not name.startswith(("val/", "test/"))}
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not finite(pl_module):
            bad.append("weights are no finite numbers")
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            self.give_up(trainer, pl_module, ", ".join(bad) or "another process saw numbers that are not finite")
        for warning in self.warnings(pl_module, losses, batch):
            rank_zero_warn(f"after {seen:,} images {warning}")

    def give_up(self, trainer: Trainer, module: FaceModule, why: str) -> None:
        """End the run, or ask for it to go back."""
        folder = Path(trainer.default_root_dir)
        seen = f"after {module.images_seen:,} images {why}"
        if self.rollbacks:
            trainer.strategy.checkpoint_io.teardown()  # what is being written may be the one to go back to
            checkpoint = trainer.strategy.broadcast(last_good(folder) if trainer.is_global_zero else None)
            if checkpoint is not None:
                raise Rollback(checkpoint, module.seed + 1, self.rollbacks - 1, seen)
            raise Diverged(f"{seen}: the run has diverged, and there is no checkpoint to go back to")
        raise Diverged(
            f"{seen}: the run has diverged and can't go on. Its checkpoints in {folder} are whole. Try a lower "
            "learning rate, clip_gradients, a higher weight of R1, or trainer.precision 32-true in place of 16-mixed; "
            "guard.rollbacks 3 goes back to the last good checkpoint by itself, with another seed"
        )

    def warnings(self, module: FaceModule, losses: dict[str, float], batch: Batch) -> list[str]:
        """Say what looks wrong, once for as long as it does, though the run goes on."""
        found = []
        large = [f"{name} is {value:.3g}" for name, value in losses.items() if abs(value) > EXPLODED]
        self.exploded = self.exploded + 1 if large else 0
        if self.exploded == 1:
            found.append(f"{', '.join(large)}: it explodes. Try a lower learning rate or clip_gradients")
        loss = losses.get("discriminator/adversarial")
        self.won = self.won + 1 if loss is not None and 0 <= loss < WON else 0
        if self.won == CHECKS:
            found.append(
                f"the discriminator's loss has been below {WON} for {self.won} looks: it tells all images apart, the "
                "generator learns nothing. Try a penalty (R1), a lower learning rate for it, or augmentation"
            )
        if isinstance(module, GenerativeModule):
            share = variety(module, batch["image"])
            self.varied = self.varied or share > VARIED
            watched = self.varied or module.images_seen > PATIENT
            self.alike = self.alike + 1 if share < ALIKE and watched else 0
            if self.alike == CHECKS:
                found.append(
                    f"samples differ {share:.1%} as much as pictures do: they are all alike (mode collapse). Try a "
                    "relativistic objective or R1, a larger batch, or go on from an earlier checkpoint"
                )
        return found


@torch.no_grad()
def finite(module: LightningModule) -> bool:
    """Tell whether all parameters and buffers are finite numbers."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.numel()]
    return bool(torch.stack([t.isfinite().all() for t in tensors]).all()) if tensors else True


def variety(module: GenerativeModule, pictures: Tensor) -> float:
    """Spread of some samples over that of as many pictures: 1 where they vary alike, 0 where samples are one image."""
    seeds = torch.arange(SAMPLES)
    labels = module.draw_labels(seeds) if module.conditional else None
    return float(spread(module.sample(seeds, labels)) / spread(to_float(pictures[:SAMPLES])).clamp(min=1e-6))


def spread(images: Tensor) -> Tensor:
    """Standard deviation over images, mean over pixels."""
    return images.float().std(0).mean()
