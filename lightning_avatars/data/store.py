"""The cache of prepared pictures: memory-mapped pixels and tables, built once, checked when opened."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from PIL import Image

from lightning_avatars.data.cache import cache_root, file_hash, writing
from lightning_avatars.data.splits import SPLITS, assign, check_shares
from lightning_avatars.data.workers import check_imported
from lightning_avatars.data.writer import CONTENTS, SUMS, StoreWriter

if TYPE_CHECKING:
    from lightning_avatars.data.base import FaceDataset, Picture, Split

FORMAT = 1
PIXELS = ["images"]  # where a store was made before there were others
RAW_LIMIT = 32 * 2**30
log = logging.getLogger(__name__)


class Blobs:
    """Byte strings in memory-mapped files."""

    def __init__(self, directory: Path, stem: str) -> None:
        self.bytes, self.ends = mapped(directory / f"{stem}.npy"), mapped(directory / f"{stem}_ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        return self.bytes[start : self.ends[index]].tobytes()


class Texts(Sequence[str]):
    """Texts that stay on the disk until they are asked for."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def __len__(self) -> int:
        return len(self.blobs)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        return self.blobs[places].decode() if isinstance(places, int) else [self.blobs[i].decode() for i in places]


class Store:
    """Prepared pictures of one dataset at one resolution.

    Pixels and tables stay in the disk's cache, shared by all processes, so that memory does not grow with the data.
    Pickled, it is only a path; who unpickles it maps the files anew.

    Args:
        directory: The store's folder, as ``build`` returns it.
    """

    def __init__(self, directory: Path) -> None:
        contents = json.loads((directory / CONTENTS).read_text(encoding="utf-8"))
        self.directory = directory
        self.key: str = contents["key"]
        self.label_names: list[str] = contents["label_names"]
        self.rejected: list[tuple[str, str]] = [(name, error) for name, error in contents["rejected"]]
        self.compressed: bool = contents["compressed"]
        self.labels: npt.NDArray[np.float32] = mapped(directory / "labels.npy")
        self.digests: npt.NDArray[np.uint8] = mapped(directory / "digests.npy")  # N x 16
        self.sizes: npt.NDArray[np.int32] = mapped(directory / "sizes.npy")  # N x width, height; 0 where unknown
        self.splits: npt.NDArray[np.uint8] = mapped(directory / "splits.npy")  # places in SPLITS
        self.names = Texts(Blobs(directory, "names"))
        identities = Texts(Blobs(directory, "identities"))  # empty where unknown
        self.identities = identities if len(identities.blobs.bytes) else None
        further = {
            name: mapped(directory / f"{name}.npy")
            for name in ("domains", "others")
            if f"{name}.npy" in contents["sizes"]
        }
        self.domains: npt.NDArray[np.int64] | None = further.get("domains")
        self.others: npt.NDArray[np.int64] | None = further.get("others")  # places of the counterparts
        self.planes: dict[str, npt.NDArray[np.uint8] | Blobs] = {
            name: Blobs(directory, name) if self.compressed else mapped(directory / f"{name}.npy")
            for name in contents.get("planes", PIXELS)
        }

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.directory,)

    def __len__(self) -> int:
        return len(self.splits)

    def read(self, index: npt.NDArray[np.int64], plane: str = "images") -> npt.NDArray[np.uint8]:
        """Read pictures, or their ``sources`` or ``masks``: uint8, N C H W, a copy of their own."""
        pixels = self.planes[plane]
        if isinstance(pixels, Blobs):
            return np.stack([from_png(pixels[int(i)]) for i in index])
        return pixels[index]

    def split(self, name: Split) -> npt.NDArray[np.int64]:
        """Places of a split's pictures, ascending; raise where there are none."""
        index = np.flatnonzero(self.splits == SPLITS.index(name))
        if not len(index):
            counts = ", ".join(f"{n} {split}" for split, n in self.counts().items())
            raise ValueError(
                f"the {name} split of {self.directory.name} is empty ({counts}); add pictures, or choose other shares "
                "with the dataset's split, such as [0.5, 0.25, 0.25]"
            )
        return index

    def counts(self) -> dict[str, int]:
        """Count the pictures of each split."""
        return dict(zip(SPLITS, np.bincount(self.splits, minlength=len(SPLITS)).tolist(), strict=True))


def build(dataset: FaceDataset, resolution: int, raw_limit: int = RAW_LIMIT) -> Store:
    """Open a dataset's store; make it first where it is missing, damaged or the sources have changed.

    Args:
        dataset: Where the pictures come from.
        resolution: Their height and width.
        raw_limit: Bytes of pixels above which pictures are kept as PNG, without loss.
    """
    if dataset.split != "standard":
        check_shares(dataset.split)
    key = store_key(dataset, resolution)
    folder = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset.name)[:60]
    directory = cache_root() / "data" / f"{folder}-{resolution}-{key[:12]}"
    if directory.exists() and damage(directory) is None:
        return Store(directory)
    check_imported()
    with writing(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(directory.with_name(f"{directory.name}.lock"))
    with lock:
        problem = damage(directory) if directory.exists() else None
        if problem:
            log.warning("The prepared pictures in %s are damaged (%s); making them again.", directory, problem)
        if problem or not directory.exists():
            make(dataset, resolution, key, directory, raw_limit)
    return Store(directory)


def store_key(dataset: FaceDataset, resolution: int) -> str:
    """Hash all that a store depends on; what a dataset has not is left out, so that its key stays as it was."""
    parts = [FORMAT, resolution, dataset.channels, dataset.name, dataset.fingerprint(), dataset.label_names]
    beside = [dataset.source_channels, dataset.mask_names, dataset.domain_names, dataset.counterparts]
    choices = [dataset.split, dataset.max_rejected, *([beside] if any(beside) else [])]
    return hashlib.sha256(json.dumps([parts, choices], sort_keys=True, default=str).encode()).hexdigest()


def acquire(path: Path) -> AbstractContextManager[object]:
    """Take a lock, and say so when another process has it."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=2)
    except Timeout:
        log.warning("Waiting for another process that prepares the same pictures (%s).", path)
        return lock.acquire()


def make(dataset: FaceDataset, resolution: int, key: str, directory: Path, raw_limit: int) -> None:
    """Write a store under a temporary name and move it in place; on an error nothing is left."""
    temporary = directory.with_name(f"{directory.name}.unfinished")  # only one process makes it: the lock's
    try:
        with writing(directory.parent):
            shutil.rmtree(temporary, ignore_errors=True)
        write(dataset, resolution, key, temporary, raw_limit)
        with writing(directory.parent):
            if directory.exists():
                shutil.rmtree(directory)
            temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(dataset: FaceDataset, resolution: int, key: str, directory: Path, raw_limit: int) -> None:
    """Write all pictures of a dataset that can be read; raise where too many cannot."""
    rejected: list[tuple[str, str]] = []
    digests, identities, origins = bytearray(), list[str](), list[bytes]()
    standard, domains = bytearray(), list[int]()
    shapes = shapes_of(dataset, resolution)
    label_names = dataset.label_names
    with writing(directory.parent):
        writer = StoreWriter(directory, shapes, len(label_names), raw_limit)
    with writer:
        for picture in dataset.pictures(resolution):
            if picture.image is None:
                rejected.append((readable(picture.name), readable(picture.error or "unreadable")))
                continue
            check(picture, dataset, shapes, len(label_names))
            digests += picture.digest
            identities.append(picture.identity or "")
            origins.append(picture.origin)
            domains += [] if picture.domain is None else [picture.domain]
            if dataset.split == "standard":
                standard.append(SPLITS.index(published(picture, dataset)))
            with writing(directory.parent):
                writer.add(picture)
        check_rejected(rejected, len(identities), dataset)
        check_domains(domains, dataset)
        if dataset.split == "standard":
            splits = np.frombuffer(standard, np.uint8)
        else:
            table = np.frombuffer(digests, np.uint8).reshape(-1, 16)
            known, paired = (which if any(which) else None for which in (identities, origins))
            splits = assign(dataset.split, table, known, paired)
        further = {"domains": np.array(domains, np.int64)} if dataset.domain_names else {}
        if dataset.counterparts:
            further["others"] = counterparts(identities, splits, dataset)
        contents = {"format": FORMAT, "key": key, "dataset": dataset.name, "label_names": label_names}
        with writing(directory.parent):
            writer.splits.append(splits)
            for name, numbers in further.items():
                writer.add_table(name, numbers)
            writer.finish({**contents, "rejected": rejected, "fingerprint": dataset.fingerprint()})


def shapes_of(dataset: FaceDataset, resolution: int) -> dict[str, tuple[int, int, int]]:
    """Tell C H W of the pictures and of what a dataset has beside them."""
    channels = {"images": dataset.channels, "sources": dataset.source_channels, "masks": int(bool(dataset.mask_names))}
    return {name: (count, resolution, resolution) for name, count in channels.items() if count}


def check(picture: Picture, dataset: FaceDataset, shapes: dict[str, tuple[int, int, int]], labels: int) -> None:
    """Raise where a dataset yields what it should not."""
    for name, pixels in {"images": picture.image, "sources": picture.source, "masks": picture.mask}.items():
        shape = shapes.get(name)
        found = None if pixels is None else (pixels.dtype.name, pixels.shape)
        if found != (shape and ("uint8", shape)):
            raise ValueError(f"{picture.name}: expected {name} of uint8 {shape}, got {found}")
    if picture.labels.shape != (labels,) or len(picture.digest) != 16:
        raise ValueError(
            f"{picture.name}: expected {labels} labels and a digest of 16 bytes, "
            f"got {picture.labels.shape} and {len(picture.digest)}"
        )
    if picture.mask is not None and (largest := int(picture.mask.max())) >= len(dataset.mask_names):
        raise ValueError(
            f"{picture.name}: its label map has class {largest}, but only {len(dataset.mask_names)} classes are known, "
            f"0 to {len(dataset.mask_names) - 1}: {', '.join(dataset.mask_names)}"
        )
    if picture.domain not in (range(len(dataset.domain_names)) if dataset.domain_names else [None]):
        raise ValueError(f"{picture.name}: domain {picture.domain} is none of {dataset.domain_names}")


def check_domains(domains: list[int], dataset: FaceDataset) -> None:
    """Raise where a domain has too few pictures to be one."""
    for name, count in zip(
        dataset.domain_names, np.bincount(domains, minlength=len(dataset.domain_names)), strict=True
    ):
        if count < 2:
            raise ValueError(
                f"domain {name!r} of {dataset.name} has {count} pictures; a domain needs more than one: add pictures, "
                "or correct where they are taken from"
            )


def counterparts(identities: list[str], splits: npt.NDArray[np.uint8], dataset: FaceDataset) -> npt.NDArray[np.int64]:
    """Find for every picture the next one of the same identity in its split; after the last comes the first."""
    groups: dict[tuple[str, int], list[int]] = {}
    for place, person in enumerate(zip(identities, splits.tolist(), strict=True)):
        groups.setdefault(person, []).append(place)
    others = np.zeros(len(identities), np.int64)
    for (who, _), places in groups.items():
        if not who or len(places) == 1:
            has = f"{who} has one in a split" if who else "some pictures are of nobody known"
            raise ValueError(f"{dataset.name} promises another picture of everybody, but {has}")
        others[places] = [*places[1:], places[0]]
    return others


def check_rejected(rejected: list[tuple[str, str]], kept: int, dataset: FaceDataset) -> None:
    """Raise where more pictures cannot be read than may be left out."""
    share = len(rejected) / max(1, kept + len(rejected))
    listed = "".join(f"\n  {name}: {error}" for name, error in rejected[:20])
    more = f"\n  and {len(rejected) - 20} more" if len(rejected) > 20 else ""
    if share > dataset.max_rejected:
        raise ValueError(
            f"{len(rejected)} of {kept + len(rejected)} pictures of {dataset.name} cannot be read, {share:.1%}; at "
            f"most {dataset.max_rejected:.1%} are left out. Repair or remove them, or raise the dataset's max_rejected:"
            f"{listed}{more}"
        )
    if not kept:
        raise ValueError(f"{dataset.name} has no readable pictures{listed}{more}")
    if rejected:
        log.warning("Left out %d pictures of %s that cannot be read:%s%s", len(rejected), dataset.name, listed, more)


def published(picture: Picture, dataset: FaceDataset) -> Split:
    """Return the published split of a picture; raise where there is none."""
    if picture.split is None:
        raise ValueError(
            f"{dataset.name} has no published split ({picture.name} is in none); give the dataset's split as three "
            "shares, such as [0.7, 0.15, 0.15]"
        )
    return picture.split


def damage(directory: Path) -> str | None:
    """Say what is wrong with the files of a store; None where nothing is."""
    try:
        contents = json.loads((directory / CONTENTS).read_text(encoding="utf-8"))
        for name, size in contents["sizes"].items():
            if (found := (directory / name).stat().st_size) != size:
                return f"{name} has {found:,} bytes, not {size:,}"
        sums = {line[66:]: line[:64] for line in (directory / SUMS).read_text().splitlines()}
        pixels = {f"{plane}.npy" for plane in contents.get("planes", PIXELS)}
        for name in [CONTENTS, *(contents["sizes"].keys() - pixels)]:
            if file_hash(directory / name) != sums[name]:
                return f"{name} is not as it was written"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return str(error)
    return None


def mapped(path: Path) -> npt.NDArray[Any]:
    """Map an array file into memory, read-only."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def from_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Read the C H W bytes of a square picture from a PNG."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    width = pixels.shape[1]
    return pixels.reshape(-1, width, width) if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def readable(text: str) -> str:
    """Replace what no terminal can show."""
    return text.encode("utf-8", "replace").decode()
