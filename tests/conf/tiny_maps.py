"""Tiny pictures with a label map of each: something that a tiny segmenter can learn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from lightning_avatars.data.base import FaceDataset, Picture

PARTS = ["background", "dark", "light"]


class TinyMaps(FaceDataset):
    """Dark and light discs anywhere on grey.

    Args:
        count: Pictures.
    """

    mask_names = PARTS

    def __init__(self, count: int = 96) -> None:
        super().__init__()
        self.count = count

    @property
    def name(self) -> str:
        return "tiny_maps"

    @property
    def label_names(self) -> list[str]:
        return []

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(self.count):
            image, mask = discs(i, resolution)
            digest = hashlib.sha256(image.tobytes()).digest()[:16]
            yield Picture(f"{i}", image, np.zeros(0, np.float32), digest, mask=mask)


def discs(seed: int, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a dark disc and a light one over it: bytes, 3 H W and 1 H W."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:resolution, :resolution] / resolution
    mask = np.zeros((1, resolution, resolution), np.uint8)
    for part in (1, 2):
        across, down = rng.uniform(0.2, 0.8, 2)
        mask[0, (x - across) ** 2 + (y - down) ** 2 < 0.25**2] = part
    image = np.array([128, 30, 220], np.uint8)[mask] + rng.integers(-20, 20, (3, resolution, resolution))
    return image.astype(np.uint8), mask
