"""Pictures that a person gives to a tool: a file, a folder, a zip or a stream of paths, read one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from lightning_avatars.data.decode import Preparation, reason
from lightning_avatars.data.sources import Folder, Source, find
from lightning_avatars.data.workers import in_order

TOGETHER = 2**20  # pixels of pictures of one size that are put together, at most


@dataclass(frozen=True)
class Item:
    """A picture that is asked for, and where it lies."""

    name: str  # what a person would call it
    file: str  # what its results are called, without a suffix
    source: Source
    inside: str  # its name in the source


@dataclass(frozen=True)
class Given:
    """A picture that was read, or why it could not be."""

    item: Item
    pixels: dict[str, Tensor] = field(default_factory=dict)  # bytes, 1 _ H W
    error: str | None = None


def from_path(path: Path) -> Iterable[Item]:
    """List a picture, or those of a folder or zip."""
    path = path.expanduser()
    if path.is_file() and path.suffix.lower() != ".zip":
        return [Item(str(path), path.stem, Folder(path.parent), path.name)]
    source = find(path)
    names = source.names()
    files = free_of_sheets(file_names(names))
    return [Item(name, file, source, name) for name, file in zip(names, files, strict=True)]


def file_names(names: list[str]) -> list[str]:
    """Name results after pictures, which may lie in subfolders; with numbers where two would be called the same."""
    flat = ["_".join(PurePosixPath(name).with_suffix("").parts) for name in names]
    return flat if len(set(flat)) == len(flat) else [f"{i:05d}_{name}" for i, name in enumerate(flat)]


def free_of_sheets(files: list[str]) -> list[str]:
    """Keep the name of the sheet free."""
    other = next(name for i in count(1) if (name := f"sheet_{i}") not in files)
    return [other if file == "sheet" else file for file in files]


def from_stream(lines: Iterable[str]) -> Iterator[Item]:
    """Read paths, a line each; results of pictures that are called the same are numbered."""
    taken, numbers = {"sheet"}, dict[str, int]()
    for line in filter(None, map(str.strip, lines)):
        path = Path(line).expanduser()
        file = path.stem
        while file in taken:
            numbers[path.stem] = numbers.get(path.stem, 1) + 1
            file = f"{path.stem}_{numbers[path.stem]}"
        taken.add(file)
        yield Item(line, file, Folder(path.parent), path.name)


@dataclass(frozen=True)
class Reader:
    """Reads what a module translates.

    Args:
        preparations: ``image``, ``source`` or ``mask`` -> how it is prepared.
        resolution: To which pictures are cut and resized; None to leave them.
        maps: Where label maps lie that go with pictures, and their names by the pictures' names without suffix.
        classes: How many numbers label maps may have.
    """

    preparations: dict[str, Preparation]
    resolution: int | None
    maps: tuple[Source, dict[str, str]] | None
    classes: int

    def __call__(self, item: Item) -> Given:
        pixels = {}
        try:
            for plane, preparation in self.preparations.items():
                source, name = (item.source, item.inside) if plane != "mask" else self.map_of(item)
                pixels[plane] = self.prepared(preparation, source.read(name))
        except Exception as error:  # decoders raise all there is for broken files, and one file must not end it all
            return Given(item, error=reason(error))
        if "mask" in pixels and (largest := int(pixels["mask"].max())) >= self.classes:
            return Given(item, error=f"its label map has class {largest}, but the model knows 0 to {self.classes - 1}")
        if len({x.shape[2:] for x in pixels.values()}) > 1:
            sizes = " and ".join(f"{x.shape[3]} x {x.shape[2]}" for x in pixels.values())
            return Given(item, error=f"picture and label map are not of one size: {sizes} pixels")
        return Given(item, pixels)

    def prepared(self, preparation: Preparation, data: bytes) -> Tensor:
        """Decode a picture to bytes, 1 C H W."""
        if self.resolution is not None:
            image = preparation.decode(data).image
            assert image is not None
            return torch.from_numpy(image)[None]
        array = np.asarray(preparation.opened(data))
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return torch.from_numpy(array.copy())[None]

    def map_of(self, item: Item) -> tuple[Source, str]:
        """Find the label map that goes with a picture: itself, where there are no pictures but these."""
        if self.maps is None:
            return item.source, item.inside
        source, names = self.maps
        stem = str(PurePosixPath(item.inside).with_suffix(""))
        if stem not in names:
            raise ValueError("there is no label map of its name in --maps")
        return source, names[stem]


def read(reader: Reader, items: Iterable[Item], streamed: bool) -> Iterator[Given]:
    """Read pictures in order: of a stream each when it is asked for, else some ahead."""
    if streamed:
        yield from map(reader, items)
        return
    with ThreadPoolExecutor() as pool:
        yield from in_order(pool, reader, items)


def readable(pictures: Iterable[Given], rejected: list[str]) -> Iterator[Given]:
    """Pass on what could be read, and note the rest."""
    for given in pictures:
        if given.error is None:
            yield given
        else:
            rejected.append(f"{given.item.name}: {given.error}")


def alike(pictures: Iterable[Given], most: int) -> Iterator[list[Given]]:
    """Put pictures of one size that follow each other together, at most so many, and a megapixel of them."""
    waiting: list[Given] = []
    for given in pictures:
        shape = shape_of(given)
        full = len(waiting) == most or (len(waiting) + 1) * shape[0] * shape[1] > TOGETHER
        if waiting and (full or shape_of(waiting[0]) != shape):
            yield waiting
            waiting = []
        waiting.append(given)
        if most == 1:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def shape_of(given: Given) -> tuple[int, int]:
    """Height and width."""
    height, width = next(iter(given.pixels.values())).shape[2:]
    return height, width
