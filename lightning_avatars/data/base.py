"""What every dataset is, and the one DataModule that serves them all."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_avatars.data.store import Store, build
from lightning_avatars.data.workers import live_with_parent
from lightning_avatars.seeding import uniform_at

Split = Literal["train", "val", "test"]


class Batch(TypedDict, total=False):
    """A batch of any dataset; absent keys are things the dataset does not have."""

    image: Tensor  # uint8, N C H W
    labels: Tensor  # float, N L, always there; L may be 0
    index: Tensor  # int64, N: the picture's place in the store
    domain: Tensor
    source: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Picture:
    """One picture on its way into the store.

    Args:
        name: What a person would call it: a file's path in its folder or zip, or a seed.
        image: uint8, C H W at the store's resolution; None when it could not be read.
        labels: float, one number per name in the dataset's ``label_names``.
        digest: 16 bytes that equal pictures share: a hash of the decoded source pixels.
        identity: Who it shows, where that is known.
        split: The published split, where there is one.
        error: Why it could not be read.
        size: Width and height of its source in pixels, where there is one.
    """

    name: str
    image: npt.NDArray[np.uint8] | None
    labels: npt.NDArray[np.float32]
    digest: bytes = b""
    identity: str | None = None
    split: Split | None = None
    error: str | None = None
    size: tuple[int, int] | None = None


class FaceDataset(ABC):
    """Where pictures and labels come from. Cheap to make; ``pictures`` does the work, once, into the cache.

    Args:
        split: Shares of train, validation and test, or ``standard`` for the published split where there is one.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    channels: int = 3
    extractor: str = "avatarnet"  # the recogniser whose features suit these pictures

    def __init__(
        self, split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15), max_rejected: float = 0.01
    ) -> None:
        self.split = split
        self.max_rejected = max_rejected

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for folders and tables."""

    @property
    @abstractmethod
    def label_names(self) -> list[str]:
        """Columns of the labels: ``group=value`` where exactly one of a group is 1, else a plain name."""

    def border(self, resolution: int) -> int:
        """Width of the empty border around pictures at this resolution: pixels that likelihoods don't count."""
        return 0

    @abstractmethod
    def fingerprint(self) -> dict[str, object]:
        """Everything that pixels, labels and names depend on, resolution aside: choices and hashes of the sources."""

    @abstractmethod
    def pictures(self, resolution: int) -> Iterator[Picture]:
        """Yield every picture in a fixed order, prepared at ``resolution``; unreadable ones with their error."""


class BatchIndex(NamedTuple):
    """Which pictures make a batch, and where in the endless run of positions they stand."""

    index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


class EndlessSampler(Sampler[BatchIndex]):
    """Batches without end: a pure function of ``(seed, position)``, so that it can start anywhere.

    Position p shows picture ``order(p // size)[p % size]``, where ``order`` is a permutation drawn anew for each pass.

    Args:
        index: The pictures of the split.
        batch_size: Images per batch over all processes.
        seed: Seed of the order.
        start: Images seen before the first batch.
        rank: This process.
        world_size: Number of processes; each takes its contiguous part of the batch.
    """

    def __init__(
        self,
        index: npt.NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.index, self.batch_size, self.seed, self.start = index, batch_size, seed, start
        local = batch_size // world_size
        self.offsets = np.arange(rank * local, (rank + 1) * local)

    def __iter__(self) -> Iterator[BatchIndex]:
        base, size, orders = self.start, len(self.index), {}
        while True:
            position = base + self.offsets
            passes = position // size
            needed = range(base // size, (base + self.batch_size - 1) // size + 1)
            orders = {p: orders[p] if p in orders else self.order(p) for p in needed}
            picked = np.concatenate([orders[p][position[passes == p] % size] for p in needed])
            yield BatchIndex(self.index[picked], position)
            base += self.batch_size

    def order(self, number: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, number]).permutation(len(self.index))


class OnceSampler(Sampler[BatchIndex]):
    """Every picture once, in order; process r takes batches r, r + W, … so that nothing is padded or repeated.

    Batches are smaller where there are too few pictures for every process to have one.
    """

    def __init__(self, index: npt.NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if len(index) < world_size:
            raise ValueError(f"{len(index)} pictures are too few for {world_size} processes: use fewer processes")
        batch_size = min(batch_size, len(index) // world_size)
        starts = range(rank * batch_size, len(index), world_size * batch_size)
        self.batches = [
            BatchIndex(index[s : s + batch_size], np.arange(s, min(s + batch_size, len(index)))) for s in starts
        ]

    def __iter__(self) -> Iterator[BatchIndex]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def mirrored(seed: int, position: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell at which positions pictures are mirrored, where half of them are."""
    return uniform_at(seed, "flip", position) < 0.5


class Batches(Dataset[Batch]):
    """Batches read from a store, mirrored at random where asked."""

    def __init__(self, store: Store, flip_seed: int | None = None) -> None:
        self.store, self.flip_seed = store, flip_seed

    def __getitem__(self, where: BatchIndex) -> Batch:
        image = self.store.read(where.index)
        if self.flip_seed is not None:
            flipped = mirrored(self.flip_seed, where.position)
            image[flipped] = image[flipped, ..., ::-1]
        return Batch(
            image=torch.from_numpy(image),
            labels=torch.from_numpy(self.store.labels[where.index]),
            index=torch.from_numpy(where.index),
        )


def end_with_parent(worker: int) -> None:
    """Let a process that reads ahead end with the training, and not by a signal to the training's process group."""
    os.setpgid(0, 0)
    live_with_parent()


class FaceData(LightningDataModule):
    """Batches of faces for training and evaluation, from any dataset.

    Args:
        dataset: Where pictures and labels come from.
        resolution: Height and width in pixels; networks are built to match.
        batch_size: Images per batch over all processes.
        horizontal_flip: Mirror half of the training pictures, chosen by position.
        num_workers: Processes that read ahead. By default none, for reading the cache costs next to nothing, except
            where pictures are stored compressed or go to a GPU.
        seed: Seed of the order and the mirroring.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        resolution: int = 64,
        batch_size: int = 64,
        horizontal_flip: bool = False,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if resolution < 1 or batch_size < 1:
            raise ValueError(f"resolution and batch_size must be at least 1, got {resolution} and {batch_size}")
        self.dataset, self.resolution, self.batch_size = dataset, resolution, batch_size
        self.horizontal_flip, self.num_workers, self.seed = horizontal_flip, num_workers, seed

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def label_names(self) -> list[str]:
        return self.dataset.label_names

    def prepare_data(self) -> None:
        build(self.dataset, self.resolution)

    def setup(self, stage: str) -> None:
        self.store = build(self.dataset, self.resolution)

    def train_dataloader(self) -> DataLoader[Batch]:
        index = self.store.split("train")
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise ValueError(
                f"data.batch_size is {self.batch_size} images over all processes; it must be a multiple of "
                f"the {world_size} processes"
            )
        start = self.trainer.lightning_module.images_seen if self.trainer else 0
        sampler = EndlessSampler(index, self.batch_size, self.seed, start, rank, world_size)
        return self.loader(Batches(self.store, self.seed if self.horizontal_flip else None), sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.once("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.once("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.once("test")

    def once(self, split: Split) -> DataLoader[Batch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self.loader(Batches(self.store), OnceSampler(self.store.split(split), self.batch_size, rank, world_size))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return Batch({name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()})

    def loader(self, batches: Batches, sampler: Sampler[BatchIndex]) -> DataLoader[Batch]:
        cuda = torch.cuda.is_available()
        workers = self.num_workers
        if workers is None:
            workers = 2 if cuda or self.store.compressed else 0
        return DataLoader(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            pin_memory=cuda,
            persistent_workers=workers > 0,
            worker_init_fn=end_with_parent if workers else None,
            prefetch_factor=4 if workers else None,
        )
