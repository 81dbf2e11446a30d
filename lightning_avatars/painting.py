"""Pictures of any size, translated whole or in tiles, and the sheet of the first ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.data.batches import Batch
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.families.translation import Translation
from lightning_avatars.images import coloured, save_sheet, to_bytes
from lightning_avatars.reading import Given
from lightning_avatars.seeding import seeded
from lightning_avatars.tiles import Pixels, tiled, up_to, whole
from lightning_avatars.ways import Way

WHOLE = 2**20  # pixels that the network sees at a time, unless one tile has more
TILE = 512  # pixels on a side of the tiles of what is larger
SHOWN = 16  # pictures on the sheet
SIDE = 256  # pixels on a side of what is on the sheet, at most


@dataclass(frozen=True)
class Tiles:
    """How pictures are cut.

    Args:
        side: Height and width of tiles.
        overlap: Pixels in which they overlap.
        always: Whether all pictures larger than a tile are cut, and not only those that are too large.
    """

    side: int
    overlap: int
    always: bool


def tiles_of(module: Translation, tile: int | None, overlap: int | None, resolution: int | None) -> Tiles:
    """Check and complete what is asked of tiles."""
    multiple = module.multiple
    side = up_to(TILE, multiple) if tile is None else tile
    if side < 2 or side % multiple:
        near = max(multiple, round(side / multiple) * multiple)
        raise ValueError(f"--tile must be a multiple of {multiple} for this model, got {side}: take {near}")
    if tile is not None and resolution is not None:
        raise ValueError("--tile cuts pictures and --resolution makes them all of one size: give one of them")
    overlap = side // 4 if overlap is None else overlap
    if not 0 <= overlap <= side // 2:
        raise ValueError(f"--overlap must be from 0 to half a tile, {side // 2}, got {overlap}")
    return Tiles(side, overlap, tile is not None)


@dataclass(frozen=True)
class Painted:
    """What was made of a picture: bytes, C H W."""

    name: str
    sources: list[Tensor]
    results: list[Tensor]


@dataclass(frozen=True)
class Painter:
    """Translates pictures of one size."""

    module: Translation
    tiles: Tiles
    batch_size: int

    def paint(self, pictures: list[Given], ways: list[Way]) -> Iterator[Painted]:
        """Translate pictures of one size every way."""
        pixels = {name: torch.cat([given.pixels[name] for given in pictures]) for name in pictures[0].pixels}
        made = [to_bytes(self.make(pixels, way)).cpu() for way in ways]
        sources = [coloured(x, len(self.module.mask_names)) if name == "mask" else x for name, x in pixels.items()]
        for i, given in enumerate(pictures):
            yield Painted(given.item.file, [x[i] for x in sources], [images[i] for images in made])

    def make(self, pixels: Pixels, way: Way) -> Tensor:
        """Translate pictures one way, in tiles where they must be."""
        first = next(iter(pixels.values()))
        labels, (height, width) = None if way.labels is None else way.labels(first), first.shape[2:]
        multiple, (side, overlap) = self.module.multiple, (self.tiles.side, self.tiles.overlap)

        def of(part: Pixels) -> Tensor:
            return self.ask(part, way, labels)

        too_large = up_to(height, multiple) * up_to(width, multiple) > max(WHOLE, side**2)
        if not (too_large or (self.tiles.always and max(height, width) > side)):
            return whole(of, pixels, multiple)
        together = min(self.batch_size, max(1, WHOLE // side**2))
        results = []
        for i in range(len(first)):
            row = None if labels is None else labels[i : i + 1]

            def of_tiles(part: Pixels, row: Tensor | None = row) -> Tensor:
                return self.ask(part, way, row)

            one = {name: x[i : i + 1] for name, x in pixels.items()}
            results.append(tiled(of_tiles, one, side, overlap, together))
        return torch.cat(results)

    def ask(self, pixels: Pixels, way: Way, labels: Tensor | None) -> Tensor:
        """Let the module translate, always alike whatever it draws."""
        device, count = self.module.device, len(next(iter(pixels.values())))
        batch = Batch({name: x.to(device) for name, x in pixels.items()})
        batch["labels"] = torch.zeros(count, len(self.module.label_names), device=device)
        batch["index"] = torch.arange(count, device=device)
        given = None if labels is None else labels.expand(count, -1).to(device)
        with seeded(0, device):
            if way.seed is not None:
                assert isinstance(self.module, PairedTranslation)  # others have no seeds
                return self.module.translate(batch, labels=given, seeds=torch.full((count,), way.seed))
            return self.module.translate(batch, to=way.to, labels=given)


class Sheet:
    """The first pictures that were translated, each beside its results."""

    def __init__(self) -> None:
        self.rows: list[list[Tensor]] = []

    def add(self, one: Painted) -> None:
        """Keep a small copy."""
        if len(self.rows) < SHOWN:
            self.rows.append([small(image) for image in (*one.sources, *one.results)])

    def save(self, path: Path) -> None:
        """Write them, some pictures side by side where they have few results."""
        height, width = (max(image.shape[side] for row in self.rows for image in row) for side in (1, 2))
        images = torch.stack([framed(image, height, width) for row in self.rows for image in row])
        each = len(self.rows[0])
        save_sheet(images, each * min(max(1, 8 // each), len(self.rows)), path)


def small(image: Tensor) -> Tensor:
    """Shrink a picture, C H W, to what fits on the sheet, in colour."""
    image = image.expand(3, -1, -1)
    scale = SIDE / max(image.shape[1:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)


def framed(image: Tensor, height: int, width: int) -> Tensor:
    """Put a picture into the middle of a white one."""
    above, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
    right, below = width - image.shape[2] - left, height - image.shape[1] - above
    return F.pad(image, (left, right, above, below), value=255)
