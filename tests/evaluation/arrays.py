"""Pictures in memory, an extractor that can be checked by hand, and modules that copy or make up what they show."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.pictures import Pictures
from lightning_avatars.families.base import EvaluationSet, GenerativeModule
from lightning_avatars.images import to_float
from lightning_avatars.metrics.extractors.base import Description, Extractor
from tests.conf.tiny import TinyFaces

LABELS = ["colour=red", "colour=blue", "large"]  # of tiny faces


def noise(count: int, seed: int = 0, size: int = 8, channels: int = 3) -> torch.Tensor:
    """Pictures of bytes, each about a colour of its own."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(count, channels, 1, 1, generator=generator) * 180
    return (colour + torch.rand(count, channels, size, size, generator=generator) * 70).to(torch.uint8)


def quadrants(images: torch.Tensor) -> torch.Tensor:
    """Mean colour of the four quarters, in [0, 1], N x 12."""
    return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


class Quadrants(Extractor):
    """Describes a picture by ``quadrants`` times ``scale``, and counts what it has seen.

    Its logits say how red and how blue the picture is, and whether its corners are dark.
    """

    def __init__(self, scale: float = 1.0, knows: bool = False, name: str = "quadrants") -> None:
        super().__init__()
        self.name, self.dim, self.scale, self.seen = name, 12, scale, 0
        self.sha256 = hashlib.sha256(f"{scale}".encode()).hexdigest()
        self.resize = "mean of quarters"
        self.label_names = LABELS if knows else []
        self.classes = len(self.label_names)

    def prepare(self, images):
        self.seen += len(images)
        return F.adaptive_avg_pool2d(images.float() / 255, 2)

    def describe(self, prepared):
        features = prepared.flatten(1)
        red, blue = features[:, :4].mean(1), features[:, 8:].mean(1)
        logits = torch.stack([red, blue, 0.8 - features.mean(1)], 1) * 10
        return Description(features * self.scale, logits if self.classes else None)


class Arrays(Pictures):
    """Pictures in memory."""

    def __init__(self, images: torch.Tensor, name: str = "arrays") -> None:
        self.images, self.name = images, name
        self.key = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()

    def __len__(self):
        return len(self.images)

    def read(self, where):
        return self.images[where]


class Shower(GenerativeModule):
    """Shows pictures of bytes in the order of its seeds."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = images

    def sample(self, seeds, labels=None, truncation_psi=1.0):
        return to_float(self.images[seeds % len(self.images)])

    def preview(self, batch):
        return {}

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass


class Translator(Shower):
    """Reconstructs pictures with noise, turns them over, and makes something of them that nothing is like."""

    def evaluation_sets(self, batch):
        image = to_float(batch["image"])
        return {
            "reconstruction": EvaluationSet(image * 0.9 + 0.1 * torch.randn(image.shape), batch["image"]),
            "upside_down": EvaluationSet(image.flip(2), reference=batch["image"].flip(3)),
            "unjudged": EvaluationSet(image),
        }


def silent(items, description):
    """Show nothing."""
    yield from items


def tiny_data(count: int = 96, split=(0.7, 0.15, 0.15), batch_size: int = 8) -> FaceData:
    """Tiny faces, prepared."""
    dataset = TinyFaces(count)
    dataset.split = split
    data = FaceData(dataset, resolution=8, batch_size=batch_size, num_workers=0)
    data.prepare_data()
    data.setup("test")
    return data
