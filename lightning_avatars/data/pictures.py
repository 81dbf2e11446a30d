"""Pictures that are scored: a split of a store, or a folder's files as they are."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from lightning_avatars.data.batches import Batch, on_device, whole_batch
from lightning_avatars.data.decode import FORMATS, Preparation, upright
from lightning_avatars.data.sources import find
from lightning_avatars.data.store import Store


class Pictures(ABC):
    """Pictures in a fixed order, with a hash of all that their pixels depend on."""

    name: str  # what a person would call them
    key: str  # hash of their content and preparation
    finite = True  # False where some could not be made
    block = 250  # how many are read at a time

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, where: slice) -> Tensor | list[Tensor]:
        """Read some pictures of bytes: N C H W, or a list of C H W where their sizes differ."""

    def labels(self, where: slice) -> Tensor | None:
        """Labels that they were asked to show, N L."""
        return None


class StorePictures(Pictures):
    """Pictures of a store, at its resolution.

    Args:
        store: The store.
        index: Their places in it.
        name: What they are called, such as the split's name.
    """

    def __init__(self, store: Store, index: npt.NDArray[np.int64], name: str) -> None:
        self.store, self.index, self.name = store, index, name
        digest = hashlib.sha256(store.key.encode())
        digest.update(index.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(store.digests[index]).tobytes())
        self.key = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.index)

    def read(self, where: slice) -> Tensor | list[Tensor]:
        return torch.from_numpy(self.store.read(self.index[where]))

    def batch(self, where: slice, device: torch.device) -> Batch:
        """Read some pictures and all that is known of them."""
        return on_device(whole_batch(self.store, self.index[where]), device)


class FolderPictures(Pictures):
    """Picture files in a folder or zip, of any size and kind, decoded to 8-bit colour and not resized.

    Args:
        path: The folder or zip.
        background: Colour under transparent parts.
        names: Some of its files, by default all.
    """

    block = 32  # they may be large

    def __init__(self, path: Path, background: str = "white", names: list[str] | None = None) -> None:
        self.path, self.name = path, path.expanduser().name
        self.source = find(path)
        self.names = self.source.names() if names is None else names
        self.preparation = Preparation(0, 3, background=background)
        facts = f"{self.source.fingerprint()} {background} {sorted(self.names) == self.source.names()}"
        chosen = hashlib.sha256("\n".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()
        self.key = hashlib.sha256(f"folder 1 {facts} {chosen}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lossy(self) -> bool:
        """Whether some files are JPEGs, whose artefacts scores can tell from none."""
        return any(name.lower().endswith((".jpg", ".jpeg")) for name in self.names)

    def read(self, where: slice) -> Tensor | list[Tensor]:
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self.one, self.names[where]))
        return torch.stack(pictures) if len({picture.shape for picture in pictures}) == 1 else pictures

    def one(self, name: str) -> Tensor:
        """Read one picture, 3 H W; raise an error that names it where it cannot be read."""
        try:
            image = self.preparation.eight_bit(upright(self.source.read(name)))
        except Exception as error:  # decoders raise all there is for broken files
            unknown = f"not a picture of a known format ({', '.join(FORMATS)})"
            reason = unknown if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
            raise ValueError(
                f"{name} in {self.path} cannot be read: {reason}. A score must not leave pictures out unsaid; remove "
                "it or repair it"
            ) from error
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def least_side(self, names: list[str]) -> int:
        """Length of the shortest side of some pictures."""
        return min(min(self.one(name).shape[1:]) for name in names)

    def take(self, index: npt.NDArray[np.int64]) -> FolderPictures:
        """Choose some of them."""
        return FolderPictures(self.path, self.preparation.background, [self.names[i] for i in index.tolist()])
