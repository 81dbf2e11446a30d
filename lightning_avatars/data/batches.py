"""What batches are made of, and how they are read from a store."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_avatars.data.samplers import BatchIndex
from lightning_avatars.data.store import Store
from lightning_avatars.seeding import uniform_at

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
