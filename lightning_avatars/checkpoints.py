"""Checkpoint files: written whole, checked before they are read, and modules rebuilt from nothing but their path."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from pydoc import locate
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_avatars.disk import put_in_place, spared
from lightning_avatars.families.base import FaceModule, GenerativeModule

FOLDER = "checkpoints"
BEST = "best.ckpt"
SEAL = b"crc32:"  # and eight digits: the comment at the end of a checkpoint, which is a zip
SEAL_LENGTH = len(SEAL) + 8
KNOWN = ("label_names", "domain_names", "mask_names", "source_channels")  # what modules know of their data


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint under a temporary name in its own folder and renames it, beside the training if asked.

    Args:
        beside: Copy the tensors and let another thread write them while training goes on.
    """

    def __init__(self, beside: bool = True) -> None:
        self.beside = beside
        self.job: tuple[Future[None], Path] | None = None
        self.then: Callable[[], object] | None = None  # what is done once the next file is there
        self.pool = ThreadPoolExecutor(1, "checkpoint")

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint, and then call ``then``."""
        self.finish()
        if self.beside:
            checkpoint = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        self.job = self.pool.submit(write, checkpoint, Path(path), self.then), Path(path)
        if not self.beside:
            self.finish()

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def finish(self) -> None:
        """Wait for what is being written; a refusal of the disk is said loudly, and training goes on without it."""
        if self.job is None:
            return
        (job, path), self.job = self.job, None
        with spared(f"the checkpoint {path} (until the next, an interruption loses what came after the last)", True):
            job.result()

    def teardown(self) -> None:
        self.finish()


def write(checkpoint: dict[str, Any], path: Path, then: Callable[[], object] | None) -> None:
    """Write a checkpoint so that after a crash there is a whole file or none.

    Raises:
        OSError: It can't be written.
    """
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
        seal(temporary)
        put_in_place(temporary, path)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # over which torch's zip writer has stumbled
            raise error.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if then is not None:
        then()


def seal(path: Path) -> None:
    """Write the checksum of a whole checkpoint at its end: zips have one of their contents, and none of their names."""
    with path.open("r+b") as file:
        length = file.seek(-2, os.SEEK_END) + 2
        file.write(struct.pack("<H", SEAL_LENGTH))
        file.write(checksum(file, length))


def checksum(file: BinaryIO, length: int) -> bytes:
    """Compute the seal of a file's first bytes, after which the file stands."""
    total, left = 0, length
    file.seek(0)
    while left and (piece := file.read(min(left, 1 << 20))):
        total, left = zlib.crc32(piece, total), left - len(piece)
    return SEAL + b"%08x" % total


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file; None where nothing is. Every byte is checked against its checksum."""
    try:
        with path.open("rb") as file:
            length = max(file.seek(0, os.SEEK_END) - SEAL_LENGTH, 0)
            file.seek(length)
            found = file.read()
            if found.startswith(SEAL):
                return None if checksum(file, length) == found else "its checksum is wrong"
        with zipfile.ZipFile(path) as archive:  # written by something else, or cut off
            bad = archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds on bytes that make no sense
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} in it is wrong"


def by_age(folder: Path) -> list[Path]:
    """List a run's checkpoints, those of the fewest images first; times of files change when a folder is copied."""
    files = (file for file in (folder / FOLDER).glob("images_*.ckpt") if file.stem[7:].isdecimal())
    return sorted(files, key=images_of)


def images_of(path: Path) -> int:
    """Read the number of images that a checkpoint has seen, from its name."""
    return int(path.stem.removeprefix("images_"))


def last_good(folder: Path, before: float = math.inf) -> Path | None:
    """Find the newest undamaged checkpoint of a run, of fewer images than ``before``; damaged ones are named."""
    for path in reversed([path for path in by_age(folder) if images_of(path) < before]):
        problem = damage(path)
        if problem is None:
            return path
        rank_zero_warn(f"{path} is damaged ({problem}): the checkpoint before it is used")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; nothing else is unpickled.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    problem = damage(path)
    if problem is not None:
        others = [other for other in by_age(path.parent.parent) if other != path and damage(other) is None]
        hint = f"; {others[-1]} is whole" if others else ""
        raise ValueError(f"{path} can't be read as a checkpoint: {problem}{hint}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ValueError(f"{path} can't be read as a checkpoint of tensors and plain values: {error}") from error
    return checkpoint if isinstance(checkpoint, dict) else {}


def load_module(path: Path, device: torch.device | str = "cpu") -> FaceModule:
    """Rebuild the module that a checkpoint of the command line, or exported weights, hold, ready to be used.

    Args:
        path: A checkpoint, or a ``.safetensors`` file that ``export`` wrote.
        device: Where the module goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is neither, or holds no configuration.
    """
    if path.suffix == ".safetensors":
        return load_exported(path).to(device)
    checkpoint = read_checkpoint(path)
    if not checkpoint.get("config"):
        raise ValueError(
            f"{path} holds no configuration, so its model can't be rebuilt: it was not written by `lightning-avatars "
            "fit`. Build the module in Python and use its load_state_dict"
        )
    module = build(checkpoint["config"])
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval().to(device)


def build(config: dict[str, Any]) -> FaceModule:
    """Make the module that a checkpoint's configuration describes, with new weights."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FaceModule, "model")
    parsed = parser.parse_object({"model": deepcopy(config["model"])})  # which it changes
    with torch.random.fork_rng([]):
        module: FaceModule = parser.instantiate_classes(parsed).model
    module.config = config
    return module


def export_weights(module: GenerativeModule, path: Path) -> None:
    """Write what a module needs to sample, with its configuration, as safetensors that may be published.

    A conditional module's file holds the labels, and no more, of some training pictures, for labels are drawn from
    them. It says what data it was trained on only where that is not in files of one's own.
    """
    if module.config is None:
        raise ValueError("only a module that was built from a configuration can be rebuilt from exported weights")
    about = {
        "config": {name: part for name, part in module.config.items() if name != "data" or is_public(part)},
        "images_seen": module.images_seen,
        **{name: getattr(module, name) for name in KNOWN},
    }
    rows = module.label_rows if module.conditional else module.label_rows[:0]
    tensors = module.sampling_state() | {"label_rows": rows}
    owned = {  # a tensor of two names, or a part of a larger one, too
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    temporary = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(owned, temporary, {"lightning_avatars": json.dumps(about)})
    put_in_place(temporary, path)


def is_public(data: dict[str, Any]) -> bool:
    """Tell whether a configuration of data names none of this machine's files."""
    dataset = data["dataset"]
    types = get_type_hints(locate(dataset["class_path"]).__init__)
    paths = [name for name, kind in types.items() if mentions_paths(kind)]
    return all((dataset.get("init_args") or {}).get(name) is None for name in paths)


def mentions_paths(kind: object) -> bool:
    """Tell whether a type is that of paths or is made of it, as ``list[Path] | None`` is."""
    plain = get_origin(kind) or kind
    return (isinstance(plain, type) and issubclass(plain, os.PathLike)) or any(map(mentions_paths, get_args(kind)))


def load_exported(path: Path) -> GenerativeModule:
    """Rebuild a module that samples from exported weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["lightning_avatars"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        module = build(about["config"])
        if not isinstance(module, GenerativeModule):
            raise TypeError(f"a {type(module).__name__} makes no pictures")
        module.label_rows = tensors.pop("label_rows")
        for name in {"label_names"} | (about.keys() & set(KNOWN)):  # older files have but the first
            setattr(module, name, about[name])
        module.images_seen = int(about["images_seen"])
        module.load_sampling_state(tensors)
    except (SafetensorError, ArgumentError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no exported generator: give a file that `export` wrote ({error})") from error
    return module.eval()
