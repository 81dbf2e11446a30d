"""What every dataset is, and the one DataModule that serves them all."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_avatars.data.batches import Batch, Batches, TrainingBatches, on_device
from lightning_avatars.data.samplers import BatchIndex, EndlessSampler, OnceSampler
from lightning_avatars.data.store import build
from lightning_avatars.data.workers import live_with_parent

Split = Literal["train", "val", "test"]


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
        source: uint8, S H W: what a pair is translated from, where the dataset has ``source_channels``.
        mask: uint8, 1 H W: a label map, where the dataset has ``mask_names``.
        domain: Its domain's place in ``domain_names``, where the dataset has any.
        origin: Bytes that pairs of one source share, or of one label map where there is no source: a hash of its
            decoded pixels. They are kept in one split.
    """

    name: str
    image: npt.NDArray[np.uint8] | None
    labels: npt.NDArray[np.float32]
    digest: bytes = b""
    identity: str | None = None
    split: Split | None = None
    error: str | None = None
    size: tuple[int, int] | None = None
    source: npt.NDArray[np.uint8] | None = None
    mask: npt.NDArray[np.uint8] | None = None
    domain: int | None = None
    origin: bytes = b""


class FaceDataset(ABC):
    """Where pictures and labels come from. Cheap to make; ``pictures`` does the work, once, into the cache.

    Args:
        split: Shares of train, validation and test, or ``standard`` for the published split where there is one.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    channels: int = 3
    extractor: str = "avatarnet"  # the recogniser whose features suit these pictures
    source_channels: int = 0  # of the pictures that pairs are translated from
    counterparts: bool = False  # whether each person has several pictures, all in one split, alike but for the labels

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

    @property
    def mask_names(self) -> list[str]:
        """Classes of the label maps, by their numbers; none where there are no maps."""
        return []

    @property
    def domain_names(self) -> list[str]:
        """Domains by their numbers; none where pictures are not of several domains."""
        return []

    def border(self, resolution: int) -> int:
        """Width of the empty border around pictures at this resolution: pixels that likelihoods don't count."""
        return 0

    @abstractmethod
    def fingerprint(self) -> dict[str, object]:
        """Everything that pixels, labels and names depend on, resolution aside: choices and hashes of the sources."""

    @abstractmethod
    def pictures(self, resolution: int) -> Iterator[Picture]:
        """Yield every picture in a fixed order, prepared at ``resolution``; unreadable ones with their error."""


def end_with_parent(worker: int) -> None:
    """Let a process that reads ahead end with the training, and not by a signal to the training's process group."""
    os.setpgid(0, 0)
    live_with_parent()


MOST_CROPPED = 8  # times the resolution: beyond it, a square shows next to nothing of a face


class FaceData(LightningDataModule):
    """Batches of faces for training and evaluation, from any dataset.

    Args:
        dataset: Where pictures and labels come from.
        resolution: Height and width in pixels; networks are built to match.
        batch_size: Images per batch over all processes.
        horizontal_flip: Mirror half of the training pictures, chosen by position, with their sources and label maps,
            where classes called ``left_…`` and ``right_…`` (or ``l_…``, ``r_…``) trade places.
        crop_from: Prepare training pictures at so many times the resolution and cut a square out of each at random,
            chosen by position: 1.117 for pix2pix's and CycleGAN's 286 of 256 pixels. Evaluation sees whole pictures.
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
        crop_from: float | None = None,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if resolution < 1 or batch_size < 1:
            raise ValueError(f"resolution and batch_size must be at least 1, got {resolution} and {batch_size}")
        if crop_from is not None and not 1 <= crop_from <= MOST_CROPPED:
            raise ValueError(
                f"crop_from is how many times the resolution pictures have that squares are cut out of, from 1 to "
                f"{MOST_CROPPED}, got {crop_from:g}; so many pixels would be {crop_from / resolution:.4g}"
            )
        self.dataset, self.resolution, self.batch_size = dataset, resolution, batch_size
        self.horizontal_flip, self.crop_from = horizontal_flip, crop_from
        self.num_workers, self.seed = num_workers, seed

    @property
    def crop_side(self) -> int:
        """Pixels along a side of the pictures that training's squares are cut out of."""
        return round((self.crop_from or 1) * self.resolution)

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def label_names(self) -> list[str]:
        return self.dataset.label_names

    @property
    def source_channels(self) -> int:
        return self.dataset.source_channels

    @property
    def mask_names(self) -> list[str]:
        return self.dataset.mask_names

    @property
    def domain_names(self) -> list[str]:
        return self.dataset.domain_names

    def prepare_data(self) -> None:
        build(self.dataset, self.resolution)
        if self.crop_from is not None:
            build(self.dataset, self.crop_side)

    def setup(self, stage: str) -> None:
        self.store = build(self.dataset, self.resolution)

    def train_dataloader(self) -> DataLoader[Batch]:
        index, domains = self.places("train")
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        parts = world_size * max(1, len(self.domain_names))
        if self.batch_size % parts:
            shared = f" times {len(self.domain_names)} domains" if self.domain_names else ""
            raise ValueError(
                f"data.batch_size is {self.batch_size} images over all processes; it must be a multiple of "
                f"the {world_size} processes{shared}"
            )
        start = self.trainer.lightning_module.images_seen if self.trainer else 0
        sampler = EndlessSampler(index, self.batch_size, self.seed, start, rank, world_size, domains)
        store = self.store if self.crop_from is None else build(self.dataset, self.crop_side)
        batches = TrainingBatches(store, self.resolution, self.seed, self.horizontal_flip, self.mask_names)
        return self.loader(batches, sampler)

    def places(self, split: Split) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Look up a split's pictures and their domains; raise where a domain has none."""
        index = self.store.split(split)
        if self.store.domains is None:
            return index, None
        domains = self.store.domains[index]
        counts = dict(zip(self.domain_names, np.bincount(domains, minlength=len(self.domain_names)), strict=True))
        if not all(counts.values()):
            found = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise ValueError(
                f"the {split} split of {self.dataset.name} lacks a domain ({found}); add pictures, or choose other "
                "shares with the dataset's split, such as [0.5, 0.25, 0.25]"
            )
        return index, domains

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.once("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.once("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.once("test")

    def once(self, split: Split) -> DataLoader[Batch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        index, _ = self.places(split)
        return self.loader(Batches(self.store), OnceSampler(index, self.batch_size, rank, world_size))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return on_device(batch, device)

    def loader(self, batches: Dataset[Batch], sampler: Sampler[BatchIndex]) -> DataLoader[Batch]:
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
