"""The cache folder: where it is, and what is said when it cannot be written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "LIGHTNING_AVATARS_CACHE"


class CacheError(RuntimeError):
    """The cache folder cannot be written."""


def cache_root() -> Path:
    """Return the folder that everything prepared is kept in."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/lightning_avatars").expanduser()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the disk says while ``folder`` is written into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"cannot write the cache in {folder}: {error.strerror or error}. Make room there, or let the environment "
            f"variable {VARIABLE} name a folder on a disk that can be written"
        ) from error


def file_hash(path: Path) -> str:
    """Hash the content of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
