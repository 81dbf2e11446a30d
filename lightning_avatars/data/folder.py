"""Any folder or zip of pictures, with labels from a table where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import ImageColor

from lightning_avatars.data.base import FaceDataset, Picture, Split
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.decode import Decoder, Preparation
from lightning_avatars.data.sources import Source, find
from lightning_avatars.data.splits import SPLITS
from lightning_avatars.data.tables import Table, read_table
from lightning_avatars.data.workers import in_order, process_pool, progress

FEW = 1000  # pictures that are decoded before other processes have started
CHUNK = 16
T = TypeVar("T")
R = TypeVar("R")


class ImageFolder(FaceDataset):
    """Pictures in a folder and its subfolders, or in a zip.

    BMP, GIF, JPEG, PNG, PPM, TIFF and WebP are read, whatever their colours and bits; of animations the first frame.

    Args:
        path: The folder or zip.
        attributes: A table with a row for each picture: a CSV with a header, whose first column is the file's path in
            the folder, or CelebA's text format. A column of numbers is one label (-1 and 1 become 0 and 1), a column of
            words one label per word.
        columns: Columns of the table to use; by default all.
        fit: What to do with pictures that are not square: ``crop`` takes the largest centred square, ``pad`` keeps all
            and fills up with the background.
        background: Colour under transparent parts and around padded pictures: a name or ``#rrggbb``.
        channels: 3 for colour, 1 for gray.
        split: Shares of train, validation and test, or ``standard``: as folders called train, val and test tell.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    def __init__(
        self,
        path: Path,
        attributes: Path | None = None,
        columns: list[str] | None = None,
        fit: Literal["crop", "pad"] = "crop",
        background: str = "white",
        channels: Literal[1, 3] = 3,
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
        max_rejected: float = 0.01,
    ) -> None:
        super().__init__(split, max_rejected)
        check_background(background)
        if columns is not None and attributes is None:
            raise ValueError(f"columns {columns} are asked for, but attributes names no table to take them from")
        self.path, self.columns, self.channels = Path(path).expanduser(), columns, channels
        self.attributes = None if attributes is None else Path(attributes).expanduser()
        self.preparation = Preparation(0, channels, fit, background)

    @property
    def name(self) -> str:
        return self.path.resolve().stem

    @property
    def source(self) -> Source:
        return find(self.path)

    @cached_property
    def label_names(self) -> list[str]:
        return self.table().label_names

    def fingerprint(self) -> dict[str, object]:
        source = self.source.fingerprint()
        table = None if self.attributes is None else [*self.label_names, file_hash(self.attributes)]
        return {"source": source, "table": table, **self.preparation.fingerprint()}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        source, table = self.source, self.table()
        names = source.names()
        if self.attributes is not None:
            check_names(names, table, self.path, self.attributes)
        decoded = decode(Decoder(source, replace(self.preparation, resolution=resolution)), names)
        for name, one in zip(names, progress(decoded, f"Preparing {self.name}", len(names)), strict=True):
            labels = table.values[table.rows[name]] if self.attributes is not None else np.zeros(0, np.float32)
            yield Picture(name, one.image, labels, one.digest, None, split_of(name), one.error, one.size)

    def table(self) -> Table:
        """Read the labels; none where there is no table."""
        if self.attributes is None:
            return Table([], {}, np.zeros((0, 0), np.float32))
        return read_table(self.attributes, self.columns)


def decode(decoder: Callable[[list[T]], list[R]], items: list[T]) -> Iterator[R]:
    """Decode pictures, or pairs of them, in order, on all cores where they are many."""
    chunks = (items[i : i + CHUNK] for i in range(0, len(items), CHUNK))
    if len(items) <= FEW:
        yield from chain.from_iterable(map(decoder, chunks))
        return
    with process_pool() as pool:
        yield from chain.from_iterable(in_order(pool, decoder, chunks))


def check_background(background: str) -> None:
    """Raise unless a colour is known and opaque."""
    try:
        opaque = len(ImageColor.getrgb(background)) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ValueError(f"background is {background!r}; it must be an opaque colour, such as white or #ffffff")


def split_of(name: str) -> Split | None:
    """Tell the published split of a picture from the folder that it is in, where that is called like one."""
    return next((split for split in SPLITS if name.startswith(f"{split}/")), None)


def check_names(names: Iterable[str], table: Table, path: Path, attributes: Path) -> None:
    """Raise unless every picture has a row and every row its picture."""
    pictures = set(names)
    absent = [name for name in table.rows if name not in pictures]
    if absent:
        raise ValueError(
            f"{attributes} names {len(absent)} pictures that are not in {path}, such as {some(absent)} (pictures there "
            f"are called {some(sorted(pictures))}); remove these rows or add the pictures"
        )
    missing = sorted(pictures - table.rows.keys())
    if missing:
        raise ValueError(
            f"{attributes} has no row for {len(missing)} pictures of {path}: {some(missing)}; add rows or remove them"
        )


def some(names: list[str]) -> str:
    """Write out the first few names."""
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
