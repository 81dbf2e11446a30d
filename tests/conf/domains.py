"""Pictures of two domains, and a module that turns the ones into the others by rules that can be checked by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import to_float
from tests.evaluation.arrays import Shower


class TwoDomains(FaceDataset):
    """Dark and bright noise, each about a colour of its own; in no order, and not as many of either.

    Args:
        count: Pictures of both domains.
    """

    def __init__(self, count: int = 150) -> None:
        super().__init__((0.4, 0.2, 0.4))
        self.count = count

    @property
    def name(self) -> str:
        return "two_domains"

    @property
    def label_names(self) -> list[str]:
        return []

    @property
    def domain_names(self) -> list[str]:
        return ["dark", "bright"]

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(self.count):
            rng = np.random.default_rng(i)
            bright = int(rng.random() < 0.6)
            colour = rng.integers(0, 60, (3, 1, 1)) + 130 * bright
            image = (colour + rng.integers(0, 60, (3, resolution, resolution))).astype(np.uint8)
            digest = hashlib.sha256(image.tobytes()).digest()[:16]
            yield Picture(f"{i}", image, np.zeros(0, np.float32), digest, domain=bright)


def domain_data(count: int = 150) -> FaceData:
    """Make those pictures, prepared."""
    data = FaceData(TwoDomains(count), resolution=8, batch_size=8, num_workers=0)
    data.prepare_data()
    data.setup("test")
    return data


class Exposure(Shower):
    """Makes dark pictures brighter and bright ones darker by as much, with noise, and back again by a little less."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        self.domain_names = ["dark", "bright"]

    @property
    def directions(self) -> dict[str, tuple[int, int]]:
        return {"dark_to_bright": (0, 1), "bright_to_dark": (1, 0)}

    def moved(self, images: Tensor, by: float) -> Tensor:
        return (to_float(images) + by).clamp(-1, 1)

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        image, sets = batch["image"], {}
        noise = 0.02 * torch.randn(image.shape)
        for name, (begin, end) in self.directions.items():
            mine, theirs = image[batch["domain"] == begin], image[batch["domain"] == end]
            by = 1.0 if end else -1.0
            there = self.moved(mine, by) + noise[batch["domain"] == begin]
            sets[name] = EvaluationSet(there, reference=theirs, source=mine)
            back = f"{name}_to_{self.domain_names[begin]}"
            sets[back] = EvaluationSet((self.moved(mine, by) - 0.9 * by).clamp(-1, 1), mine)
        return sets
