"""Where picture files lie: a folder or a zip, listed, read by name and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from lightning_avatars.data.cache import cache_root, file_hash, writing
from lightning_avatars.data.workers import cores, in_order, progress
from lightning_avatars.images import SHEET, is_sheet

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LARGEST_FILE = 512 * 2**20


class Source(ABC):
    """A place with picture files, told by their suffixes.

    Hidden files are no pictures, nor are the sheets of pictures that tools write beside them.
    """

    @abstractmethod
    def names(self) -> list[str]:
        """List the pictures in a fixed order; raise where there are none."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read one file; raise where it is larger than any picture."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash the names and the contents of all pictures."""


def find(path: Path) -> Source:
    """Open a folder or a zip, or a folder in a zip (``faces.zip/masks``); raise an error that says what is there."""
    path = path.expanduser()
    if path.is_dir():
        return Folder(path)
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    if archive is not None and zipfile.is_zipfile(archive):
        return Zip(archive, archive.stat().st_mtime_ns, path.relative_to(archive).as_posix() + "/")
    if not path.exists():
        raise FileNotFoundError(f"no folder or zip at {path} (looked from {Path.cwd()}); give the path of the pictures")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither a folder nor a readable zip; give the path of a folder or zip of pictures")
    return Zip(path, path.stat().st_mtime_ns)


@dataclass(frozen=True)
class Folder(Source):
    """A folder and its subfolders; names are paths inside it."""

    path: Path

    def names(self) -> list[str]:
        found = []
        for parent, folders, files in os.walk(self.path):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            inside = PurePosixPath(Path(parent).relative_to(self.path).as_posix())
            found += [str(inside / file) for file in files if is_picture(file)]
        found = without_sheets(found, lambda name: (self.path / name).open("rb"))
        return sorted(complain_if_empty(found, self.path))

    def read(self, name: str) -> bytes:
        path = self.path / name
        check_size(path.stat().st_size)
        return path.read_bytes()

    def fingerprint(self) -> str:
        """Hash names and contents; only files whose size or time has changed since the last start are read."""
        root = self.path.resolve()
        index = cache_root() / "sources" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json"
        known, names = read_index(index), self.names()
        stamps = {name: stamp(root / name) for name in names}
        hashes = {name: known[name].hash for name in names if name in known and known[name][:2] == stamps[name]}
        changed = [name for name in names if not hashes.get(name)]
        if changed:
            with ThreadPoolExecutor(cores()) as pool:
                contents = in_order(pool, lambda name: hash_or_nothing(root / name), changed)
                hashes.update(zip(changed, progress(contents, "Hashing pictures", len(changed)), strict=True))
        if changed or len(known) != len(names):
            write_index(index, {name: Noted(*stamps[name], hashes[name]) for name in names})
        return combined(f"{name}\0{hashes[name]}" for name in names)


@dataclass(frozen=True)
class Zip(Source):
    """A zip, read in place; a top folder called like the zip is not part of the names.

    Args:
        path: The zip.
        changed: Time of its last change, so that a rewritten zip is opened anew.
        inside: A folder in it, with a slash at its end; all of it by default.
    """

    path: Path
    changed: int
    inside: str = ""

    def opened(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        return open_zip(self.path, self.changed, self.inside, os.getpid())

    def names(self) -> list[str]:
        return list(self.opened()[1])

    def read(self, name: str) -> bytes:
        archive, members = self.opened()
        check_size(members[name].file_size)
        return archive.read(members[name])

    def fingerprint(self) -> str:
        """Hash names, sizes and checksums from the zip's own directory."""
        return combined(f"{name}\0{member.file_size}\0{member.CRC}" for name, member in self.opened()[1].items())


@lru_cache(maxsize=8)
def open_zip(path: Path, changed: int, inside: str, process: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip and list its pictures, once per process: a forked one must not share its parent's file."""
    archive = zipfile.ZipFile(path)
    members = {member.filename: member for member in archive.infolist() if is_picture(member.filename)}
    found = {name: members[name] for name in without_sheets(list(members), archive.open)}
    top = f"{path.stem}/" if all(name.startswith(f"{path.stem}/") for name in found) else ""
    found = {
        name.removeprefix(top).removeprefix(inside): found[name]
        for name in found
        if name.removeprefix(top).startswith(inside)
    }
    return archive, {name: found[name] for name in complain_if_empty(sorted(found), path / inside)}


def is_picture(name: str) -> bool:
    """Tell a picture by its name."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or path.parts[0] == "__MACOSX"
    return path.suffix.lower() in SUFFIXES and not hidden


def without_sheets(names: list[str], opened: Callable[[str], IO[bytes]]) -> list[str]:
    """Leave out what is called as tools call their sheets, and is one."""

    def is_one(name: str) -> bool:
        try:
            with opened(name) as file:
                return is_sheet(file)
        except Exception:  # zipfile raises all there is for broken files, which are rejected by name later
            return False

    return [name for name in names if PurePosixPath(name).name != SHEET or not is_one(name)]


def complain_if_empty(names: list[str], path: Path) -> list[str]:
    """Raise where there are no pictures."""
    if not names:
        raise ValueError(f"no pictures in {path}; looked for {', '.join(SUFFIXES)} in it and its subfolders")
    return names


def check_size(size: int) -> None:
    """Raise for a file larger than any picture."""
    if size > LARGEST_FILE:
        raise ValueError(f"a file of {size:,} bytes; pictures of at most {LARGEST_FILE:,} bytes are read")


def combined(lines: Iterable[str]) -> str:
    """Hash lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(os.fsencode(line) + b"\n")
    return digest.hexdigest()


class Noted(NamedTuple):
    """What an earlier start noted of a file; no hash where it could not be read."""

    size: int
    time: int
    hash: str


def stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file, or -1 where it cannot be reached; it is rejected by name later."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def hash_or_nothing(path: Path) -> str:
    """Hash the content of a file, or return nothing where it cannot be read."""
    try:
        return file_hash(path)
    except OSError:
        return ""


def read_index(path: Path) -> dict[str, Noted]:
    """Read what earlier starts noted of each file; nothing where the note itself is unreadable."""
    try:
        return {name: Noted(*noted) for name, noted in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_index(path: Path, index: dict[str, Noted]) -> None:
    """Replace the note in one step, so that two processes never mix theirs."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with writing(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(index))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
