"""The pictures of both sides, and what the tools make of them, kept for the next run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from lightning_avatars.data.sources import Source, find

OTHER_SIDE = 5000  # number of the first picture of the second side
CHUNK = 32  # images whose features are kept in one file
Describe = Callable[[Tensor], Tensor]


def picture(source: Path, number: int, width: int, height: int, other: bool) -> Tensor:
    """Read a picture, resize it and add grain, 3 H W; those of the other side are blurred and have more grain."""
    with Image.open(BytesIO(read(source, number))) as file:
        image = file.convert("RGB")
    if width == height:
        side, top = min(image.size), (image.height - min(image.size)) // 2
        image = image.crop((0, top, side, top + side))
    image = image.filter(ImageFilter.GaussianBlur(0.7)) if other else image
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = np.random.default_rng(number).normal(0, 8 if other else 3, pixels.shape)
    return torch.from_numpy(np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8)).permute(2, 0, 1)


def read(source: Path, number: int) -> bytes:
    """Read the file of a picture."""
    place, names = opened(source)
    return place.read(names[number])


@cache
def opened(source: Path) -> tuple[Source, list[str]]:
    """Open a folder or a zip and list its pictures."""
    place = find(source)
    return place, place.names()


def kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Read what was computed before, or compute it."""
    if not path.is_file():
        with torch.no_grad():
            torch.save(make().clone(), path)
    return torch.load(path)


class Features:
    """Features of both sides by each tool, kept in chunks.

    Args:
        source: Folder or zip of pictures.
        describe: The tools.
        keep: Folder of what was computed.
    """

    def __init__(self, source: Path, describe: dict[str, Describe], keep: Path) -> None:
        self.source, self.describe, self.keep = source, describe, keep

    def images(self, size: tuple[int, int], other: bool, numbers: range) -> Tensor:
        return torch.stack([picture(self.source, i + OTHER_SIDE * other, *size, other) for i in numbers])

    def __call__(self, tool: str, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        """Describe as many images of each side."""
        sides = [], []
        for other, start in product((False, True), range(0, count, CHUNK)):
            name = f"{tool}_{size[0]}x{size[1]}_{'b' if other else 'a'}".replace(", ", "_")
            images = partial(self.images, size, other, range(start, start + CHUNK))
            sides[other].append(
                kept(self.keep / f"{name}_{start}.pt", lambda images=images: self.describe[tool](images()))
            )
        a, b = (torch.cat(side)[:count].float() for side in sides)
        return a, b
