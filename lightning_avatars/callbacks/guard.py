"""Watches a run for what can't get better by itself: numbers that are none, a player that has won, one image only."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.checkpoints import images_of, last_good, read_checkpoint, write
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import FaceModule, GenerativeModule
from lightning_avatars.images import to_float
from lightning_avatars.schedules import crossed

EXPLODED = 1e6  # a loss beyond which nothing is learned
WON = 1e-3  # least losses: 0.015 of healthy discriminators, 0.00005 of one that learned 100 times too fast
CHECKS = 5  # looks in a row
ALIKE = 0.05  # spread of samples over spread of pictures: at least 0.11 in healthy runs, below this in collapsed ones
PATIENT = 25_000  # images after which a generator should have learned to vary: all shipped ones have after 5,000
SAMPLES = 16


class Diverged(RuntimeError):  # noqa: N818 - what happened
    """A run can't go on: its weights are no numbers any more."""


class Rollback(Exception):  # noqa: N818 - what is to be done
    """A run shall go on from its last good checkpoint, which knows of it, with another seed.

    Args:
        checkpoint: What to go back to.
        seed: The seed that it goes on with.
        why: What was seen.
    """

    def __init__(self, checkpoint: Path, seed: int, why: str) -> None:
        super().__init__(why)
        self.checkpoint, self.seed = checkpoint, seed


class Guard(Callback):
    """Look at losses, weights and samples every so many images; say what is wrong and what may help.

    Weights or losses that are no numbers end the run, and its checkpoints stay; or it goes back to the last good one
    and on with another seed. A scaler of float16 leaves such steps out: with it, losses are looked at five times.

    Exploding losses, a discriminator that has won and samples that are all alike are said, and no more. Who has won is
    seen in losses whose least value is 0, where a discriminator learns nothing more: Wasserstein's has no least value,
    and its generator learns the better the further the critic is. Samples of a few kinds are not seen, only of one.

    Args:
        every: Images between looks; 0 for none.
        rollbacks: How often the run may go back to its last good checkpoint.
    """

    def __init__(self, every: int = 5_000, rollbacks: int = 0) -> None:
        if every < 0 or rollbacks < 0:
            raise ValueError(f"guard.every and guard.rollbacks must be at least 0, got {every} and {rollbacks}")
        self.every, self.rollbacks = every, rollbacks
        self.counts = {"lost": 0, "exploded": 0, "won": 0, "alike": 0, "varied": 0, "gone_back": 0, "back_to": 0}

    def state_dict(self) -> dict[str, int]:
        return dict(self.counts)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.counts |= state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for owner in (pl_module, trainer.datamodule):  # after the state is there, before the order of the data is
            owner.seed += self.counts["gone_back"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        seen, size = pl_module.images_seen, trainer.datamodule.batch_size
        if not crossed(self.every, seen - size, seen):
            return
        losses = {name: float(value) for name, value in pl_module.latest.items()}
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        looks = self.count("lost", bool(bad))
        hopeless = bool(bad) and (looks >= CHECKS or not skips(trainer))
        if not finite(pl_module):
            bad, hopeless = [*bad, "weights are no finite numbers"], True
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            self.give_up(trainer, pl_module, ", ".join(bad) or "another process saw numbers that are not finite")
        for warning in self.warnings(pl_module, losses, batch):
            rank_zero_warn(f"after {seen:,} images {warning}")

    def give_up(self, trainer: Trainer, module: FaceModule, why: str) -> None:
        """End the run, or ask for it to go back."""
        folder = Path(trainer.default_root_dir)
        seen = f"after {module.images_seen:,} images {why}"
        if self.counts["gone_back"] < self.rollbacks:
            trainer.strategy.checkpoint_io.teardown()  # what is being written may be the one to go back to
            checkpoint = trainer.strategy.broadcast(self.turned_back(folder) if trainer.is_global_zero else None)
            if checkpoint is not None:
                raise Rollback(checkpoint, module.seed + 1, seen)
            raise Diverged(f"{seen}: the run has diverged, and there is no checkpoint that it can go back to")
        raise Diverged(
            f"{seen}: the run has diverged and can't go on. Its checkpoints in {folder} are whole. Try a lower "
            "learning rate, clip_gradients, a higher weight of R1, or trainer.precision 32-true in place of 16-mixed; "
            "guard.rollbacks 3 goes back to the last good checkpoint by itself, with another seed"
        )

    def turned_back(self, folder: Path) -> Path | None:
        """Note in the last good checkpoint that the run comes back to it, for all that ever go on from there.

        Where it came back to the same one before, what goes wrong may have begun in it: the one before it is taken.
        """
        path = last_good(folder)
        if path is not None and images_of(path) == self.counts["back_to"]:
            path = last_good(folder, before=images_of(path)) or path
        if path is None:
            return None
        saved = read_checkpoint(path)
        noted = {"gone_back": self.counts["gone_back"] + 1, "back_to": images_of(path)}
        saved["callbacks"].setdefault(self.state_key, {}).update(noted)
        try:
            write(saved, path, None)
        except OSError as error:  # other processes wait to be told
            rank_zero_warn(f"the run can't go back to {path}, for the disk refuses a note of that in it ({error})")
            return None
        return path

    def count(self, name: str, seen: bool) -> int:
        """Count the looks in a row at which something has been seen."""
        self.counts[name] = self.counts[name] + 1 if seen else 0
        return self.counts[name]

    def warnings(self, module: FaceModule, losses: dict[str, float], batch: Batch) -> list[str]:
        """Say what looks wrong, once for as long as it does, though the run goes on."""
        found = []
        large = [f"{name} is {value:.3g}" for name, value in losses.items() if EXPLODED < abs(value) < math.inf]
        if self.count("exploded", bool(large)) == 1:
            found.append(f"{', '.join(large)}: it explodes. Try a lower learning rate or clip_gradients")
        loss = losses.get("discriminator/adversarial")
        if self.count("won", loss is not None and 0 <= loss < WON) == CHECKS:
            found.append(
                f"the discriminator's loss has been below {WON} for {CHECKS} looks: it tells all images apart, the "
                "generator learns nothing. Try a penalty (R1), a lower learning rate for it, or augmentation"
            )
        if isinstance(module, GenerativeModule) and module.samples:
            share = variety(module, batch["image"])
            self.counts["varied"] |= share >= ALIKE
            watched = self.counts["varied"] or module.images_seen > PATIENT
            if self.count("alike", share < ALIKE and bool(watched)) == CHECKS:
                found.append(
                    f"samples differ {share:.1%} as much as pictures do: they are all alike (mode collapse). Try a "
                    "relativistic objective or R1, a larger batch, or go on from an earlier checkpoint"
                )
        return found


def skips(trainer: Trainer) -> bool:
    """Tell whether a scaler leaves out steps whose numbers are not finite, as it does while it finds its scale."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


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
