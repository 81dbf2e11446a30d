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
SIDES = {"left_": "right_", "right_": "left_", "l_": "r_", "r_": "l_"}


class Batch(TypedDict, total=False):
    """A batch of any dataset; absent keys are things the dataset does not have."""

    image: Tensor  # uint8, N C H W: of pairs the target
    labels: Tensor  # float, N L, always there; L may be 0
    index: Tensor  # int64, N: the picture's place in the store
    domain: Tensor  # int64, N: places in domain_names
    source: Tensor  # uint8, N S H W: what pairs are translated from
    mask: Tensor  # uint8, N 1 H W: label maps, places in mask_names
    other: Tensor  # uint8, N C H W: at evaluation, another picture of the same person
    other_labels: Tensor  # float, N L: what it shows


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


class BatchIndex(NamedTuple):
    """Which pictures make a batch, and where in the endless run of positions they stand."""

    index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


class EndlessOrder:
    """Pictures without end, in an order drawn anew for each pass: a pure function of the place in it.

    Args:
        index: The pictures.
        seed: Seed of the order.
        domain: The domain they are of; each has an order of its own.
    """

    def __init__(self, index: npt.NDArray[np.int64], seed: int, domain: int = 0) -> None:
        self.index, self.seed, self.domain = index, seed, domain
        self.orders: dict[int, npt.NDArray[np.int64]] = {}

    def __getitem__(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        passes, within = np.divmod(places, len(self.index))
        self.orders = {p: self.orders[p] if p in self.orders else self.order(p) for p in np.unique(passes).tolist()}
        picked = np.zeros_like(places)
        for number, order in self.orders.items():
            picked[passes == number] = order[within[passes == number]]
        return self.index[picked]

    def order(self, number: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, number, self.domain]).permutation(len(self.index))


class EndlessSampler(Sampler[BatchIndex]):
    """Batches without end: a pure function of ``(seed, position)``, so that it can start anywhere.

    Position p shows picture ``order(p // size)[p % size]``, where ``order`` is a permutation drawn anew for each pass.
    Of K domains, position p shows one of domain p % K, each domain in an endless order of its own.

    Args:
        index: The pictures of the split.
        batch_size: Images per batch over all processes.
        seed: Seed of the order.
        start: Images seen before the first batch.
        rank: This process.
        world_size: Number of processes; each takes its contiguous part of the batch.
        domains: The domain of each of the pictures, 0 to K - 1, where they have any; each domain has some.
    """

    def __init__(
        self,
        index: npt.NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        domains: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.batch_size, self.start = batch_size, start
        local = batch_size // world_size
        self.offsets = np.arange(rank * local, (rank + 1) * local)
        of_domain = [index] if domains is None else [index[domains == d] for d in range(domains.max() + 1)]
        self.orders = [EndlessOrder(pictures, seed, domain) for domain, pictures in enumerate(of_domain)]

    def __iter__(self) -> Iterator[BatchIndex]:
        base = self.start
        while True:
            position = base + self.offsets
            places, domain = np.divmod(position, len(self.orders))
            picked = np.zeros_like(position)
            for number, order in enumerate(self.orders):
                picked[domain == number] = order[places[domain == number]]
            yield BatchIndex(picked, position)
            base += self.batch_size


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


def corners(seed: int, position: npt.NDArray[np.int64], slack: int) -> npt.NDArray[np.int64]:
    """Draw where crops begin at each position, N x top, left; each from 0 to ``slack``."""
    draws = [uniform_at(seed, f"crop/{axis}", position) for axis in ("top", "left")]
    return (np.stack(draws, 1) * (slack + 1)).astype(np.int64)


def opposites(names: list[str]) -> npt.NDArray[np.uint8]:
    """Tell which class each becomes in a mirror: ``left_eye`` and ``right_eye`` trade places, where both are there."""
    sides = [(side, name) for name in names for side in SIDES if name.startswith(side)]
    opposite = {SIDES[side] + name.removeprefix(side): name for side, name in sides}
    return np.array([names.index(opposite.get(name, name)) for name in names], np.uint8)


def whole_batch(store: Store, index: npt.NDArray[np.int64]) -> Batch:
    """Read pictures and all that is known of them, unchanged, as evaluation takes them.

    Args:
        store: The store.
        index: The pictures' places in it, N.
    """
    batch = as_batch(store, index, planes_of(store, index))
    if store.others is not None:
        others = store.others[index]
        batch["other"] = torch.from_numpy(store.read(others))
        batch["other_labels"] = torch.from_numpy(store.labels[others])
    return batch


def planes_of(store: Store, index: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.uint8]]:
    """Read pictures, what they are translated from and their label maps."""
    return {plane.removesuffix("s"): store.read(index, plane) for plane in store.planes}


def as_batch(store: Store, index: npt.NDArray[np.int64], planes: dict[str, npt.NDArray[np.uint8]]) -> Batch:
    """Put pixels into a batch, with what is known of the pictures."""
    pixels = {name: torch.from_numpy(plane) for name, plane in planes.items()}
    batch = Batch(**pixels, labels=torch.from_numpy(store.labels[index]), index=torch.from_numpy(index))
    if store.domains is not None:
        batch["domain"] = torch.from_numpy(store.domains[index])
    return batch


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to a device."""
    return Batch({name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()})


class Batches(Dataset[Batch]):
    """Batches for evaluation, read from a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getitem__(self, where: BatchIndex) -> Batch:
        return whole_batch(self.store, where.index)


class TrainingBatches(Dataset[Batch]):
    """Batches read from a store, cropped and mirrored at random where asked: pictures, sources and label maps alike.

    Args:
        store: The store.
        resolution: Height and width of what is cropped out of its pictures.
        seed: Seed of crops and mirroring.
        flip: Mirror half of the pictures.
        mask_names: Classes of the label maps.
    """

    def __init__(self, store: Store, resolution: int, seed: int, flip: bool, mask_names: list[str]) -> None:
        self.store, self.resolution, self.seed, self.flip = store, resolution, seed, flip
        self.opposites = opposites(mask_names)

    def __getitem__(self, where: BatchIndex) -> Batch:
        planes = planes_of(self.store, where.index)
        slack = planes["image"].shape[-1] - self.resolution
        if slack:
            starts = corners(self.seed, where.position, slack)
            planes = {name: cropped(plane, starts, self.resolution) for name, plane in planes.items()}
        if self.flip:
            flipped = mirrored(self.seed, where.position)
            for name, plane in planes.items():
                turned = plane[flipped, ..., ::-1]
                plane[flipped] = self.opposites[turned] if name == "mask" else turned
        return as_batch(self.store, where.index, planes)


def cropped(images: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], resolution: int) -> npt.NDArray[np.uint8]:
    """Cut a square out of each image, N C H W, that begins at its own top and left."""
    squares = zip(images, starts.tolist(), strict=True)
    return np.stack([image[:, top : top + resolution, left : left + resolution] for image, (top, left) in squares])


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
        horizontal_flip: Mirror half of the training pictures, chosen by position, with their sources and label maps,
            where classes called ``left_…`` and ``right_…`` (or ``l_…``, ``r_…``) trade places.
        crop_from: Prepare training pictures at this larger resolution and cut a square out of each at random, chosen
            by position. Evaluation sees the whole pictures.
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
        crop_from: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if resolution < 1 or batch_size < 1:
            raise ValueError(f"resolution and batch_size must be at least 1, got {resolution} and {batch_size}")
        if crop_from is not None and crop_from < resolution:
            raise ValueError(f"crop_from is {crop_from}; squares of {resolution} pixels need at least {resolution}")
        self.dataset, self.resolution, self.batch_size = dataset, resolution, batch_size
        self.horizontal_flip, self.crop_from = horizontal_flip, crop_from
        self.num_workers, self.seed = num_workers, seed

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
            build(self.dataset, self.crop_from)

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
        store = self.store if self.crop_from is None else build(self.dataset, self.crop_from)
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
