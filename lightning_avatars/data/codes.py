"""Codes of training pictures: computed once for each data and each network that makes them, by all processes."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_avatars.data.cache import cache_root, file_hash, writing
from lightning_avatars.data.store import mapped
from lightning_avatars.data.writer import ArrayStream
from lightning_avatars.disk import put_in_place
from lightning_avatars.metrics.processes import add_up, rank_and_world

FORMAT = 1  # one more wherever the numbers that are kept would change
BLOCK = 64  # pictures that a process describes at a time

Codes = npt.NDArray[np.uint16] | npt.NDArray[np.int32]


def cached_codes(
    facts: dict[str, object],
    count: int,
    shape: tuple[int, ...],
    words: int,
    describe: Callable[[slice], Tensor],
    device: torch.device,
    writes: bool = True,
) -> Codes:
    """Map codes from the cache into memory; where not every process can, compute them together and put them there.

    Every process must call this with the same facts at the same time. All of them see the same codes, whoever computed
    them.

    Args:
        facts: All that the codes depend on; their hash is the file's name.
        count: Number of pictures.
        shape: Shape of a picture's codes.
        words: Number of different codes.
        describe: Computes the codes of some pictures, n x shape, whole numbers on ``device``.
        device: Where processes exchange what they computed.
        writes: Whether this process writes the file, as one must on each machine with a disk of its own.

    Raises:
        CacheError: The disk refuses.
    """
    text = json.dumps({"format": FORMAT, "words": words, "shape": [count, *shape], **facts}, sort_keys=True)
    path = cache_root() / "codes" / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.npy"
    missing = torch.tensor(float(damage(path, text) is not None), device=device)
    add_up(missing)
    if missing:
        rank_zero_info(f"Computing the codes of {count:,} training pictures, once; they are kept in {path.parent}")
        compute(
            path, text, (count, *shape), np.dtype(np.uint16 if words <= 2**16 else np.int32), describe, device, writes
        )
        add_up(torch.zeros(1, device=device))  # wait until they are written
    return mapped(path)


def damage(path: Path, facts: str) -> str | None:
    """Say why a file does not hold the codes of just these facts; None where it does."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        right = about["facts"] == facts and about["sha256"] == file_hash(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return str(error)
    return None if right else "it is not as it was written"


def compute(
    path: Path,
    facts: str,
    shape: tuple[int, ...],
    kind: np.dtype[np.generic],
    describe: Callable[[slice], Tensor],
    device: torch.device,
    writes: bool,
) -> None:
    """Share the pictures between the processes, and write what they found if this one ``writes``."""
    temporary = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}.part")
    rank, world = rank_and_world()
    stream = None
    try:
        if writes:
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = ArrayStream(temporary, kind, shape[1:])
        for first in range(0, shape[0], BLOCK * world):
            own = [min(first + BLOCK * number, shape[0]) for number in (rank, rank + 1)]
            found = torch.zeros(min(BLOCK * world, shape[0] - first), *shape[1:], dtype=torch.int64, device=device)
            if own[0] < own[1]:
                found[own[0] - first : own[1] - first] = describe(slice(*own))
            add_up(found)
            if stream is not None:
                with writing(path.parent):
                    stream.append(found.cpu().numpy())
        if stream is not None:
            with writing(path.parent):
                stream.finish()
                put_in_place(temporary, path)
                about = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}.part")
                about.write_text(json.dumps({"facts": facts, "sha256": file_hash(path)}))
                put_in_place(about, path.with_suffix(".json"))
    finally:
        if stream is not None:
            stream.drop()
            temporary.unlink(missing_ok=True)
