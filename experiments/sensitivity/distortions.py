"""What is done to pictures, step by step."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from lightning_avatars.images import to_picture


class Distortion(NamedTuple):
    """What is done to pictures."""

    unit: str
    levels: list[str]  # the first is none
    apply: Callable[[Tensor, float, int], Tensor] | None = None  # of bytes, a level, a seed; None: others are chosen


def blur(images: Tensor, level: float, seed: int) -> Tensor:
    """Blur by a Gaussian."""
    return to_bytes(gaussian_blur(images.float(), 2 * ceil(3 * level) + 1, level))


def noise(images: Tensor, level: float, seed: int) -> Tensor:
    """Add normal noise to every value, the same at all levels but for its size."""
    return to_bytes(images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)))


def jpeg(images: Tensor, level: float, seed: int) -> Tensor:
    """Write and read JPEGs, their colours at half the resolution as is the rule."""
    return torch.stack([one_jpeg(image, int(level)) for image in images])


def one_jpeg(image: Tensor, quality: int) -> Tensor:
    """Write and read one JPEG."""
    file = io.BytesIO()
    to_picture(image).save(file, "jpeg", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).transpose(2, 0, 1).copy())


def redden(images: Tensor, level: float, seed: int) -> Tensor:
    """Add to the red channel."""
    return to_bytes(images + level * torch.tensor([1.0, 0, 0])[:, None, None])


def to_bytes(images: Tensor) -> Tensor:
    """Round and clamp grey levels."""
    return images.round().clamp(0, 255).to(torch.uint8)


DISTORTIONS = {
    "blur": Distortion("sigma in pixels", ["0", "0.5", "1", "2", "4"], blur),
    "noise": Distortion("standard deviation in grey levels", ["0", "5", "10", "20", "40"], noise),
    "jpeg": Distortion("quality", ["none", "90", "60", "30", "10"], jpeg),
    "colour": Distortion("grey levels added to red", ["0", "5", "10", "20", "40"], redden),
    "modes": Distortion("share of the modes that is kept", ["100%", "75%", "50%", "25%", "10%"]),
    "duplicates": Distortion("times that each picture is there", ["1", "2", "4", "8", "16"]),
    "copier": Distortion("share of training pictures", ["0%", "25%", "50%", "75%", "100%"]),
}


def levels(distortion: str) -> list[str]:
    """Levels of a distortion, the first of which is none."""
    return DISTORTIONS[distortion].levels


def share(level: str) -> float:
    """Turn ``25%`` into 0.25."""
    return float(level.rstrip("%")) / 100


def distort(name: str, level: str, images: Tensor, seed: int) -> Tensor:
    """Distort pictures; at the first level they stay as they are."""
    apply = DISTORTIONS[name].apply
    return images if apply is None or level == levels(name)[0] else apply(images, float(level), seed)
