"""Scores of a generator's samples against real pictures."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

import lightning_avatars
from lightning_avatars.callbacks.results import write_result
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.cache import cache_root
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import to_bytes
from lightning_avatars.metrics.attributes import AttributeAccuracy
from lightning_avatars.metrics.extractors import Extractor
from lightning_avatars.metrics.frechet import Moments, frechet_distance

COUNTS = (5_000, 2_000, 1_000, 500)


class SampleQuality(Callback):
    """Score the averaged generator at every validation and test, and leave training untouched.

    The score is the Fréchet distance of samples to the training split in the features of a recogniser, and for
    conditional models the share of attributes that came out as asked. It compares models on one dataset: the features
    were learned on avatars, or on digits, and say less of photographs. Samples are made in blocks of seeds: the same
    images on any number of processes. Scores are logged and written to ``results.json`` in the run's folder.

    Args:
        images: Samples to draw; by default 5,000, or fewer where the data has fewer pictures to tell the floor from.
        extractor: ``avatarnet``, ``mnistnet``, or a recogniser's file; by default the one that suits the data.
        block: Samples made at a time.
        enabled: Whether to score at all.
    """

    def __init__(
        self, images: int | None = None, extractor: str | None = None, block: int = 250, enabled: bool = True
    ) -> None:
        self.images, self.extractor_name, self.block, self.enabled = images, extractor, block, enabled
        self.extractor: Extractor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.enabled and isinstance(pl_module, GenerativeModule) and self.extractor is None:
            self.extractor = Extractor(self.extractor_name or trainer.datamodule.dataset.extractor)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module, "test")

    def evaluate(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Score, log and write."""
        if self.extractor is None or trainer.sanity_checking:
            return
        started, data = time.monotonic(), trainer.datamodule
        extractor = self.extractor.to(module.device)
        held_out = np.concatenate([data.store.split("val"), data.store.split("test")])
        count = self.images or next((n for n in COUNTS if n <= len(held_out)), len(held_out))
        size = f"{count // 1000}k" if count % 1000 == 0 else str(count)

        reference = self.reference(trainer, extractor, data, "train", data.store.split("train"))
        floor = self.reference(trainer, extractor, data, f"held_out_{count}", held_out[:count])
        moments, accuracy = self.samples(trainer, extractor, module, count)
        name = f"fd_{extractor.name}_{size}"
        distance = float(frechet_distance(*reference, *moments)) if moments else math.nan
        floor_distance = float(frechet_distance(*reference, *floor))
        scores = {name: distance}
        if accuracy:
            scores |= {f"accuracy_{size}": sum(accuracy.values()) / len(accuracy)}
        for key, value in (scores | {f"{name}_floor": floor_distance}).items():
            module.log(f"{stage}/{key}", torch.tensor(value, dtype=torch.float32), sync_dist=True)
        module.log_clock()
        result = {
            "scores": {key: None if math.isnan(value) else value for key, value in scores.items()},
            "floor": {name: floor_distance, "images": min(count, len(held_out))},
            "accuracy": accuracy,
            "seconds": round(time.monotonic() - started, 2),
            "passport": self.passport(module, extractor, data, count),
        }
        write_result(trainer, module, stage, result)

    def samples(
        self, trainer: Trainer, extractor: Extractor, module: GenerativeModule, count: int
    ) -> tuple[tuple[Tensor, Tensor] | None, dict[str, float]]:
        """Draw exactly ``count`` samples over all processes; return their moments and attribute accuracies.

        Moments are None where a generator has diverged and some samples are not finite.
        """
        finite = True
        accuracy = AttributeAccuracy(module.label_names).to(exact(module.device))
        known = {name: column for column, name in enumerate(extractor.network.label_names)}
        asked = [known[name] for name in module.label_names if name in known] if module.conditional else []
        judged = bool(asked) and len(asked) == len(module.label_names)

        def blocks() -> Iterator[Tensor]:
            nonlocal finite
            for first in range(trainer.global_rank * self.block, count, trainer.world_size * self.block):
                seeds = torch.arange(first, min(first + self.block, count))
                labels = module.draw_labels(seeds) if module.conditional else None
                images = module.sample(seeds, labels)
                finite = finite and bool(images.isfinite().all())
                features, logits = extractor(to_bytes(images))
                if judged:
                    accuracy.update(logits[:, asked].to(accuracy.device), labels.to(accuracy.device))
                yield features

        moments = collect(blocks(), extractor, module.device)
        if not trainer.strategy.reduce_boolean_decision(finite):
            rank_zero_warn(f"samples after {module.images_seen:,} images are not finite: the score is nan")
            return None, {}
        return moments, {k: float(v) for k, v in accuracy.compute().items()} if judged else {}

    def reference(
        self, trainer: Trainer, extractor: Extractor, data: FaceData, name: str, index: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Moments of real pictures, computed once for each store, extractor and set of pictures."""
        device = trainer.lightning_module.device
        path = cache_root() / "moments" / f"{data.store.key[:24]}-{extractor.sha256[:24]}-{name}.npz"
        kept = dict(np.load(path, allow_pickle=False)) if trainer.is_global_zero and path.is_file() else None
        kept = trainer.strategy.broadcast(kept)
        if kept is not None:
            mean, covariance = (torch.from_numpy(kept[name]).to(exact(device)) for name in ("mean", "covariance"))
            return mean, covariance
        firsts = range(trainer.global_rank * self.block, len(index), trainer.world_size * self.block)
        chunks = (torch.from_numpy(data.store.read(index[i : i + self.block])).to(device) for i in firsts)
        mean, covariance = collect((extractor(images)[0] for images in chunks), extractor, device)
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.part.npz")
            np.savez(temporary, mean=mean.cpu().numpy(), covariance=covariance.cpu().numpy())
            temporary.replace(path)
        return mean, covariance

    def passport(self, module: GenerativeModule, extractor: Extractor, data: FaceData, count: int) -> dict[str, object]:
        """Everything that the score depends on."""
        return {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "images": count,
            "reference": {"store": data.store.key, "split": "train", "images": len(data.store.split("train"))},
            "weights": "average" if module.averaged else "last",
            "truncation_psi": 1.0,
            "labels": "training data" if module.conditional else None,
            "device": str(module.device),
            "versions": {
                "lightning_avatars": lightning_avatars.__version__,
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "python": platform.python_version(),
            },
        }


def exact(device: torch.device) -> torch.device:
    """Where float64 sums are kept: Apple's GPUs have no such numbers."""
    return torch.device("cpu") if device.type == "mps" else device


def collect(features: Iterator[Tensor], extractor: Extractor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Reduce blocks of features to mean and covariance over all processes."""
    moments = Moments(extractor.network.heads.in_features).to(exact(device))
    for block in features:
        moments.update(block.to(moments.device))
    return moments.compute()
