"""Write a store's files in one pass, holding only a few pictures in memory."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.workers import cores

if TYPE_CHECKING:
    from lightning_avatars.data.base import Picture

CONTENTS, SUMS = "store.json", "SHA256SUMS"
BUFFER = 64 * 2**20


class ArrayStream:
    """A ``.npy`` file that grows by rows; its header is written again at the end, for then the length is known."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.shape, self.rows = path, np.dtype(dtype), shape, 0
        self.file = path.open("wb")
        self.header()

    def header(self) -> None:
        self.file.seek(0)
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, description)

    def append(self, rows: npt.NDArray[np.generic]) -> None:
        if rows.size:
            self.file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.rows += len(rows)

    def finish(self) -> None:
        self.header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def drop(self) -> None:
        """Close without care for what is not written yet."""
        with suppress(OSError):
            self.file.close()


class BlobStream:
    """Byte strings of any length: ``<stem>.npy`` holds them end to end, ``<stem>_ends.npy`` where each ends."""

    def __init__(self, directory: Path, stem: str) -> None:
        self.bytes = ArrayStream(directory / f"{stem}.npy", np.uint8)
        self.ends = ArrayStream(directory / f"{stem}_ends.npy", np.int64)

    def append(self, blobs: Iterable[bytes]) -> None:
        blobs = list(blobs)
        ends = self.bytes.rows + np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        self.bytes.append(np.frombuffer(b"".join(blobs), np.uint8))
        self.ends.append(ends)

    def finish(self) -> None:
        self.bytes.finish()
        self.ends.finish()

    def drop(self) -> None:
        self.bytes.drop()
        self.ends.drop()


class StoreWriter:
    """The files of a new store.

    Args:
        directory: Where they are made; it must not exist.
        shapes: C H W of the pictures, ``images``, and of what lies beside their pixels, ``sources`` and ``masks``.
        labels: Number of labels.
        raw_limit: Bytes of pixels above which pictures are kept as PNG.
    """

    def __init__(self, directory: Path, shapes: dict[str, tuple[int, int, int]], labels: int, raw_limit: int) -> None:
        directory.mkdir(parents=True)
        self.directory, self.raw_limit = directory, raw_limit
        self.bytes_each = sum(prod(shape) for shape in shapes.values())
        self.planes: dict[str, ArrayStream | BlobStream] = {
            name: ArrayStream(directory / f"{name}.npy", np.uint8, shape) for name, shape in shapes.items()
        }
        self.labels = ArrayStream(directory / "labels.npy", np.float32, (labels,))
        self.digests = ArrayStream(directory / "digests.npy", np.uint8, (16,))
        self.sizes = ArrayStream(directory / "sizes.npy", np.int32, (2,))
        self.splits = ArrayStream(directory / "splits.npy", np.uint8)
        self.further: list[ArrayStream] = []
        self.names, self.identities = BlobStream(directory, "names"), BlobStream(directory, "identities")
        self.waiting: list[Picture] = []

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self.streams():
            stream.drop()

    def streams(self) -> list[ArrayStream | BlobStream]:
        tables = [self.labels, self.digests, self.sizes, self.splits, *self.further]
        return [*self.planes.values(), *tables, self.names, self.identities]

    @property
    def compressed(self) -> bool:
        return isinstance(self.planes["images"], BlobStream)

    def add(self, picture: Picture) -> None:
        self.waiting.append(picture)
        if len(self.waiting) * self.bytes_each >= BUFFER or len(self.waiting) == 1024:
            self.flush()

    def flush(self) -> None:
        pictures, self.waiting = self.waiting, []
        if not pictures:
            return
        self.labels.append(np.stack([picture.labels for picture in pictures]))
        self.digests.append(np.stack([np.frombuffer(picture.digest, np.uint8) for picture in pictures]))
        self.sizes.append(np.array([picture.size or (0, 0) for picture in pictures]))
        self.names.append(picture.name.encode("utf-8", "replace") for picture in pictures)
        self.identities.append((picture.identity or "").encode() for picture in pictures)
        self.append_planes({name: np.stack([plane(picture, name) for picture in pictures]) for name in self.planes})

    def add_table(self, name: str, numbers: npt.NDArray[np.int64]) -> None:
        """Write a number for each picture into a file of its own."""
        self.further.append(ArrayStream(self.directory / f"{name}.npy", np.int64))
        self.further[-1].append(numbers)

    def append_planes(self, planes: dict[str, npt.NDArray[np.uint8]]) -> None:
        if not self.compressed and self.sizes.rows * self.bytes_each > self.raw_limit:
            for name in self.planes:
                self.compress(name)
        for name, images in planes.items():
            self.append_images(name, images)

    def append_images(self, name: str, images: npt.NDArray[np.uint8]) -> None:
        stream = self.planes[name]
        if isinstance(stream, ArrayStream):
            stream.append(images)
        else:
            with ThreadPoolExecutor(cores()) as pool:
                stream.append(pool.map(to_png, images))

    def compress(self, name: str) -> None:
        """Begin to keep PNGs: what was written raw is written again."""
        raw = self.planes[name]
        assert isinstance(raw, ArrayStream)
        raw.finish()
        old = raw.path.rename(self.directory / "raw.npy")
        self.planes[name] = BlobStream(self.directory, name)
        images = np.load(old, mmap_mode="r", allow_pickle=False)
        step = max(1, BUFFER // images[0].nbytes) if len(images) else 1
        for start in range(0, len(images), step):
            self.append_images(name, np.asarray(images[start : start + step]))
        old.unlink()

    def finish(self, contents: dict[str, object]) -> None:
        """Close all files, and note their sizes and the hashes of all but the pixels."""
        self.flush()
        for stream in self.streams():
            stream.finish()
        files = sorted(self.directory.iterdir())
        sizes = {file.name: file.stat().st_size for file in files}
        contents = {**contents, "planes": list(self.planes), "compressed": self.compressed, "sizes": sizes}
        write_text(self.directory / CONTENTS, json.dumps(contents, indent=1, default=str))
        tables = [file for file in files if file.stem not in self.planes]
        sums = [f"{file_hash(file)}  {file.name}\n" for file in [*tables, self.directory / CONTENTS]]
        write_text(self.directory / SUMS, "".join(sums))


def plane(picture: Picture, name: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture, of its source or of its label map."""
    pixels = {"images": picture.image, "sources": picture.source, "masks": picture.mask}[name]
    assert pixels is not None
    return pixels


def to_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Compress C H W bytes without loss: as colour, else channel below channel in gray."""
    file = io.BytesIO()
    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image.reshape(-1, image.shape[2])
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
