"""What is written while a run goes on: never half, and never at the cost of the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def spared(what: str, whatever: bool = False) -> Iterator[None]:
    """Let a run go on without ``what`` where the disk is full, or ``whatever`` is wrong with it, and say so loudly."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        if not full and not whatever:
            raise
        why = "THE DISK IS FULL" if full else "THE DISK REFUSES"
        rank_zero_warn(f"{why}: {what} COULD NOT BE WRITTEN. Training goes on; make room soon ({error})")


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file so that after a crash there is the old one or the new one, and never half of one."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
