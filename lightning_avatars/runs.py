"""Folders of runs: ``runs/<experiment>/<n>``, which of them a command line goes on with, and who writes into it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.checkpoints import BEST, FOLDER, by_age, damage, images_of, last_good
from lightning_avatars.disk import spared
from lightning_avatars.evaluation.scores import read_results, write_results

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
RESULTS = "results.json"
ID_FILE = "wandb_id"  # by which the dashboard knows the run
ABANDONED = "abandoned_{}"

# What makes a run this run: what it learns from, and all of the model but how it is computed and how fast it learns.
IDENTITY = (
    "seed_everything", "data.dataset", "data.resolution", "data.horizontal_flip", "model", "init_from", "freeze",
)  # fmt: skip
MAY_CHANGE = {"seed", "compile", "channels_last", "recompute", "micro_batch", "optimizer_schedules", "learning_rate"}

made: Path | None = None  # the folder that this process made for a run
held: TextIO | None = None  # the lock of the folder that this process trains in


def run_of(checkpoint: Path) -> Path | None:
    """Locate the run's folder that a checkpoint lies in, by its ``config.yaml``."""
    return next((f for f in (checkpoint.parent, checkpoint.parent.parent) if (f / "config.yaml").is_file()), None)


def experiment_name(config: Namespace) -> str:
    """Name the experiment after its last configuration file, or after its model's and its data's."""
    files = config.get("config") or [f for f in (config.model.get("__path__"), config.data.get("__path__")) if f]
    name = "_".join(Path(str(file)).stem for file in (files[-1:] if config.get("config") else files))
    return name or "unnamed"


def continued(
    checkpoint: str | None, resume: str, experiment: str, root: str | None, asked: dict[str, Any] | None = None
) -> str | None:
    """Choose the checkpoint that a run goes on from.

    A run that differs from what is asked for in ``IDENTITY`` is another run: ``auto`` passes over it, ``last`` refuses.
    The number of images, intervals, batch size, devices, precision, workers, loggers, optimizers' options and what else
    is in ``MAY_CHANGE`` may change. A path that is named is taken as it is.

    Args:
        checkpoint: What ``--ckpt_path`` says; ``last`` is the newest undamaged one of the experiment's newest run.
        resume: ``auto`` for that of the newest run that is the one asked for, and a new run where there is none.
        experiment: Name of the experiment.
        root: The run's folder, where one was chosen.
        asked: The configuration; None where a checkpoint is only read, which may be any run's.

    Raises:
        FileNotFoundError: ``last`` was asked for and there is none.
        ValueError: ``last`` or the folder that was chosen is another run.
    """
    if checkpoint != "last" and (checkpoint is not None or resume != "auto"):
        return checkpoint
    base = Path("runs") / experiment
    numbered = sorted((path for path in base.glob("*") if path.name.isdigit()), key=lambda path: -int(path.name))
    if checkpoint != "last" and root is None:
        return newest_alike(numbered, asked)
    found = newest([Path(root)] if root else numbered, asked)
    if found is None and checkpoint == "last":
        raise FileNotFoundError(f"there is no checkpoint in {root or base} to go on from: start without --ckpt_path")
    return found


def newest(folders: Iterable[Path], asked: dict[str, Any] | None) -> str | None:
    """Find the newest checkpoint in the first of some folders that has any; it must be of the run asked for."""
    for folder in folders:
        found = last_good(folder)
        if found is not None and (why := another(folder, asked)):
            raise ValueError(f"{why}. Ask for the same, or name one of its checkpoints in --ckpt_path to go on anyway")
        if found is not None:
            return str(found)
    return None


def newest_alike(folders: Iterable[Path], asked: dict[str, Any] | None) -> str | None:
    """Find the newest checkpoint of the run asked for in some folders; others are passed over, and the first named."""
    others = []
    for folder in folders:
        if why := another(folder, asked):
            others.append(why)
        elif found := last_good(folder):
            return str(found)
    if others:
        rank_zero_warn(f"--resume auto starts a new run, for {others[0]}")
    return None


def another(folder: Path, asked: dict[str, Any] | None) -> str:
    """Say why a folder's run is another one than a configuration asks for; nothing where it is not."""
    different = [] if asked is None else list(differences(folder, asked))
    return f"{folder} is another run: {shortened(different, 4)}" if different else ""


def shortened(items: list[str], most: int) -> str:
    """Name the first of some things, and count the rest."""
    more = f", and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def differences(folder: Path, asked: dict[str, Any]) -> Iterator[str]:
    """Name what makes a folder's run another one than a configuration asks for, with both values."""
    path = folder / "config.yaml"
    if not path.is_file():  # of a run that was made without the command line
        return
    saved = yaml.safe_load(path.read_text())
    for name in IDENTITY:
        there, here = saved, asked
        for part in name.split("."):
            there, here = (there or {}).get(part), (here or {}).get(part)
        yield from unlike(name, there, here)


def unlike(name: str, there: object, here: object) -> Iterator[str]:
    """Walk two values of a configuration and name where they differ."""
    owner, _, key = name.rpartition(".")
    if owner == "model.init_args" and key in MAY_CHANGE:
        return
    if isinstance(there, dict) and isinstance(here, dict) and there.get("class_path") == here.get("class_path"):
        arguments = key == "init_args"  # an argument that one side does not know is of another version
        keys = sorted(there.keys() & here.keys() if arguments else there.keys() | here.keys())
        for inner in keys if not key.endswith("optimizer") else ():
            yield from unlike(f"{name}.{inner}", there.get(inner), here.get(inner))
    elif there != here:
        before, now = (value.get("class_path", value) if isinstance(value, dict) else value for value in (there, here))
        yield f"{name.replace('.init_args', '')} is {before} there and {now} here"


def run_folder(experiment: str, checkpoint: str | None) -> Path:
    """Choose the run's folder: the checkpoint's own, or the next free ``runs/<experiment>/<n>``."""
    global made
    own = run_of(Path(checkpoint)) if checkpoint else None
    if own is not None:
        return own
    base = Path("runs") / experiment
    if rank():
        return base  # until the first process tells which
    number = max((int(path.name) for path in base.glob("*") if path.name.isdigit()), default=0) + 1
    while not claimed(base / str(number)):
        number += 1
    made = base / str(number)
    return made


def claimed(folder: Path) -> bool:
    """Make a folder, unless another run was quicker."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def rank() -> int:
    """Number of this process among those of the run, as far as it can be known before they have met: 0 for the first.

    torchrun's variables count before SLURM's, as in Lightning. Where Lightning starts the processes of each of several
    nodes by itself, all but the first are above 0, and not numbered through.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if SLURMEnvironment.detect():
        return int(os.environ.get("SLURM_PROCID", 0))
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0))
    return max(int(node), int(os.environ.get("LOCAL_RANK", 0)))


def hold(folder: Path) -> None:
    """Keep other processes from training in a folder, until this one ends or calls ``release``.

    It is a record lock, for that of ``flock`` is inherited by processes that read ahead and may outlive this one for a
    moment. Where there are no locks, it says so and nothing is kept.

    Raises:
        RuntimeError: Another process trains there.
    """
    global held
    path = folder.resolve() / LOCK
    if held is not None and Path(held.name) == path:  # as after a rollback; a lock goes with the first of two files
        return
    release()
    try:
        held = path.open("a+")
        lock(held)
    except OSError as error:
        rank_zero_warn(f"{folder} can't be locked ({error}): nothing keeps a second run from training there too")


def lock(file: TextIO) -> None:
    """Lock a file, and note in it who has."""
    if fcntl is None:
        raise OSError("there are no record locks on this system")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        owner = file.read() or "another process"
        release()
        raise RuntimeError(
            f"{owner} is training in {Path(file.name).parent}, and two would overwrite each other's checkpoints. Wait "
            "until it has ended, or end it; without --resume and --ckpt_path a run gets a folder of its own"
        ) from error
    with suppress(OSError):  # a full disk takes no note of who it is
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()


def release() -> None:
    """Let others train in the folder that this process holds."""
    global held
    if held is not None:
        with suppress(OSError):  # a full disk refuses a note that is still to be written
            held.close()
    held = None


def discard_empty_run() -> None:
    """Remove the folder that this process made for a run that failed before it wrote anything."""
    if made is not None and made.is_dir() and all(path.name == LOCK for path in made.iterdir()):
        (made / LOCK).unlink(missing_ok=True)
        made.rmdir()


def set_aside(folder: Path, images: int) -> None:
    """Move checkpoints and scores of more images than a run begins with into a folder of their own, and say so.

    They are of a course that was given up, by going back or by starting anew in its folder, and would be taken for the
    newest ones. A run that starts anew is another one on the dashboard too.
    """
    beyond = [path for path in by_age(folder) if images_of(path) > images]
    best = folder / FOLDER / BEST
    if best.is_file() and damage(best) is None:
        seen = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]["_extra_state"]["images_seen"]
        beyond += [best] if seen > images else []
    if images == 0 and (folder / ID_FILE).is_file():
        beyond.append(folder / ID_FILE)
    kept, later = results_until(folder / RESULTS, images)
    if not (beyond or later):
        return
    aside = next(path for number in count(1) if not (path := folder / ABANDONED.format(number)).exists())
    aside.mkdir()
    if later:
        with spared(f"scores of after {images:,} images, which {folder / RESULTS} keeps, in {aside}"):
            write_results(aside / RESULTS, later)
            write_results(folder / RESULTS, kept)
    for path in reversed(beyond):
        path.rename(aside / path.name)
    names = ", ".join([path.name for path in beyond] + [RESULTS] * bool(later))
    rank_zero_warn(f"the run goes on from {images:,} images: what came later is now in {aside} ({names})")


def results_until(path: Path, images: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Divide a run's results into those of up to so many images and later ones; none where they can't be read."""
    try:
        results = read_results(path) if path.is_file() else []
    except ValueError:
        return [], []
    return [r for r in results if r["images_seen"] <= images], [r for r in results if r["images_seen"] > images]
