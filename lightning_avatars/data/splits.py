"""Which pictures train, which validate and which test, decided by what they show."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt

SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


def check_shares(shares: tuple[float, float, float]) -> None:
    """Raise unless ``shares`` are three parts of a whole."""
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split must be three shares that sum to 1, such as [0.7, 0.15, 0.15], got {list(shares)}")


def assign(
    shares: tuple[float, float, float],
    digests: npt.NDArray[np.uint8],
    identities: Iterable[str] | None = None,
    origins: Iterable[bytes] | None = None,
) -> npt.NDArray[np.uint8]:
    """Give every picture its split, 0 train, 1 val, 2 test, whatever the order they come in.

    A picture goes where the hash of its identity falls, or of its digest where the identity is unknown, so that it
    stays there when others are added. Copies stay together, and pairs of one source: where a copy links two
    identities, or a source two pictures, the smaller hash decides for all they have.

    Args:
        shares: Parts of train, val and test; they sum to 1.
        digests: N x 16 bytes that copies share.
        identities: N names, empty where unknown.
        origins: N byte strings that pairs of one source share, empty where there is no source.
    """
    keys = [b"digest" + digest.tobytes() for digest in digests]
    linked = [groups(keys)]
    if origins is not None:
        linked.append(groups([b"origin" + of if of else key for of, key in zip(origins, keys, strict=True)]))
    if identities is not None:
        keys = [b"identity" + who.encode() if who else key for who, key in zip(identities, keys, strict=True)]
    linked.append(groups(keys))
    place = np.array([int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64 for key in keys])
    while True:
        before = place
        for group in linked:
            place = smallest(place, group)
        if np.array_equal(before, place):
            break
    return np.searchsorted(np.cumsum(shares[:2]), place, side="right").astype(np.uint8)


def groups(keys: list[bytes]) -> npt.NDArray[np.int64]:
    """Number the groups of equal keys: N numbers."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def smallest(values: npt.NDArray[np.float64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Replace each value by the smallest of its group."""
    least = np.full(group.max(initial=0) + 1, np.inf)
    np.minimum.at(least, group, values)
    return least[group]
