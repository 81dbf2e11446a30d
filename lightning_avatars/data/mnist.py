"""MNIST: 70,000 handwritten digits, read from its idx files (LeCun et al. 1998)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightning_avatars.data.base import FaceDataset, Picture, Split
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.workers import progress

PARTS = ("train", "t10k")
FIRST_VAL = 50_000
SIDE, BORDER = 28, 2  # 32 x 32 by a border of zeros
UINT8 = 8  # the idx format's code of the only type MNIST uses


class MNIST(FaceDataset):
    """Handwritten digits, gray, with ``digit=0`` to ``digit=9`` as labels.

    28 x 28 as published; 32 x 32 by a border of zeros; resized (Lanczos) otherwise.

    Args:
        path: The folder of the four files, such as ``train-images-idx3-ubyte``, with or without ``.gz``.
        split: Shares of train, validation and test, or ``standard``: the published 10,000 are the test split, and the
            last 10,000 of the published 60,000 are the validation split.
    """

    channels = 1
    extractor = "mnistnet"

    def __init__(self, path: Path, split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15)) -> None:
        super().__init__(split)
        self.path = Path(path).expanduser()

    @property
    def name(self) -> str:
        return "mnist"

    @property
    def label_names(self) -> list[str]:
        return [f"digit={digit}" for digit in range(10)]

    def border(self, resolution: int) -> int:
        return BORDER if resolution == SIDE + 2 * BORDER else 0

    def file(self, part: str, kind: str) -> Path:
        """Find one of the four files."""
        name = f"{part}-{kind}-ubyte"
        for place in (self.path / name, self.path / f"{name}.gz"):
            if place.is_file():
                return place
        raise FileNotFoundError(f"no {name} or {name}.gz in {self.path}; put MNIST's four idx files there")

    def fingerprint(self) -> dict[str, object]:
        files = [self.file(part, kind) for part in PARTS for kind in ("images-idx3", "labels-idx1")]
        return {"files": [file_hash(file) for file in files], "filter": "lanczos", "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        parts = [(part, *self.read(part)) for part in PARTS]
        everything = ((part, i, images[i], labels[i]) for part, images, labels in parts for i in range(len(images)))
        total = sum(len(labels) for _, _, labels in parts)
        for part, i, image, digit in progress(everything, "Preparing mnist", total):
            published: Split = "test" if part == "t10k" else "val" if i >= FIRST_VAL else "train"
            height, width = image.shape
            yield Picture(
                f"{part}/{i:05}",
                fitted(image, resolution)[None],
                np.eye(10, dtype=np.float32)[digit],
                blake2b(image.tobytes(), digest_size=16).digest(),
                split=published,
                size=(width, height),
            )

    def read(self, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Read images, N 28 28, and digits, N."""
        images, labels = self.file(part, "images-idx3"), self.file(part, "labels-idx1")
        pixels, digits = read_idx(images, 3), read_idx(labels, 1)
        if len(pixels) != len(digits):
            raise ValueError(f"{images} has {len(pixels)} images, {labels} has {len(digits)} labels; get both again")
        if digits.max(initial=0) > 9:
            raise ValueError(f"{labels} has a label {digits.max()}, which is no digit; get it again")
        return pixels, digits


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an idx file of bytes: two zeros, the type, the number of dimensions, their sizes, the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); get it again") from error
    if data[:4] != bytes([0, 0, UINT8, dimensions]):
        raise ValueError(f"{path} is no idx file of bytes in {dimensions} dimensions (it begins {data[:4].hex()})")
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data[4:start].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(data) - start} bytes, its header announces {math.prod(shape)}; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def fitted(image: npt.NDArray[np.uint8], resolution: int) -> npt.NDArray[np.uint8]:
    """Bring one image to the resolution."""
    if resolution == image.shape[0]:
        return image
    if resolution == SIDE + 2 * BORDER and image.shape == (SIDE, SIDE):
        return np.pad(image, BORDER)
    return np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.LANCZOS))
