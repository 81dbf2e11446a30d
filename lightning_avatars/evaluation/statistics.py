"""What is kept of real pictures: computed once for each content, extractor and preparation, by all processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_avatars.data.cache import cache_root
from lightning_avatars.metrics.processes import add_up, rank_and_world

PATIENCE = 300  # seconds
FORMAT = 1  # one more wherever the numbers that are kept would change


def cached(
    facts: dict[str, object], device: torch.device, compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Read named tensors from the cache, or compute them and put them there.

    Every process must call this with the same facts at the same time: ``compute`` may share work between processes, and
    its result must be the same on all. A second run that needs the same numbers waits for the first one's.

    Args:
        facts: All that the numbers depend on; their hash is the file's name.
        device: Where the tensors go.
        compute: Makes the tensors.
    """
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    path = cache_root() / "statistics" / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.safetensors"
    kept = everyones(path, text, device)
    if kept is not None:
        return kept
    first = rank_and_world()[0] == 0
    lock = FileLock(path.with_suffix(".lock"))
    if first:  # what the cache spares is work; a run goes on without it
        with told(path), suppress(Timeout):  # sooner than the other processes lose patience
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
    try:
        kept = everyones(path, text, device)  # another run may have been quicker
        if kept is not None:
            return kept
        tensors = compute()
        with told(path):
            if first:
                save(tensors, path, text)
        if everyones(path, text, device) is None and read(path, text) is None and not first:
            with told(path):  # a machine with a disk of its own
                save(tensors, path, text)
        return tensors
    finally:
        lock.release()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Say that the cache can't be written, and go on."""
    try:
        yield
    except OSError as error:
        rank_zero_warn(f"what scores need of real pictures can't be kept in {path.parent}, and is made anew: {error}")


def everyones(path: Path, facts: str, device: torch.device) -> dict[str, Tensor] | None:
    """Read the file where every process can."""
    tensors = read(path, facts)
    missing = torch.tensor(0.0 if tensors is not None else 1.0, device=device)
    add_up(missing)
    return None if missing or tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}


def read(path: Path, facts: str) -> dict[str, Tensor] | None:
    """Read a file of just these facts; nothing where there is none, or a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path) if about.get("facts") == facts else None
    except (OSError, SafetensorError):
        return None
    return tensors if tensors is not None and about.get("content") == checksum(tensors) else None


def checksum(tensors: dict[str, Tensor]) -> str:
    """Hash names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def save(tensors: dict[str, Tensor], path: Path, facts: str) -> None:
    """Write tensors under a temporary name and rename the file."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    kept = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(kept, temporary, {"facts": facts, "content": checksum(kept)})
        temporary.replace(path)
    except SafetensorError as error:  # its word for what the disk said
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
