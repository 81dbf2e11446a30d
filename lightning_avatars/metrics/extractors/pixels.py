"""Small pictures as their own description: what copies are looked for in, for nothing in it was ever trained."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.metrics.extractors.base import Description, Extractor

SIDE = 16


class Pixels(Extractor):
    """Pixels of a picture shrunk to 16 x 16, the same for a picture and its mirror image.

    Networks that were trained on the same pictures describe those otherwise than pictures that they have not seen;
    here training and held-out pictures have equal chances. Copies that are shifted by a pixel or lightly retouched stay
    near; those that are cut otherwise, turned or recoloured are not found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name, self.dim = "pixels", 3 * SIDE * SIDE
        self.resize = f"bilinear, antialiased, to {SIDE} x {SIDE}"
        self.sha256 = hashlib.sha256(f"{self.resize}, mirrored halves added and subtracted".encode()).hexdigest()

    def score(self, kind: str) -> str:
        return kind

    def prepare(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float().div(255), (SIDE, SIDE), mode="bilinear", antialias=True)

    def describe(self, prepared: Tensor) -> Description:
        left, right = prepared[..., : SIDE // 2], prepared.flip(3)[..., : SIDE // 2]
        return Description(torch.cat([left + right, (left - right).abs()], 1).flatten(1))
