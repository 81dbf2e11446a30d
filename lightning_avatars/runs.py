"""Folders of runs: ``runs/<experiment>/<n>``, which of them a command line goes on with, and who writes into it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import yaml
from jsonargparse import Namespace
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from lightning_avatars.checkpoints import last_good

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

RUN_FOLDER = "LIGHTNING_AVATARS_RUN"  # tells the processes that Lightning starts which folder the first one made
LOCK = ".lock"
HELD: dict[Path, TextIO] = {}  # the folder that this process trains in, and its lock

# What makes a run this run: all of the model but how it is computed and how fast it learns, and what it learns from.
WHAT = ("seed_everything", "data.dataset", "data.resolution", "data.horizontal_flip", "model", "init_from", "freeze")
HOW = {"seed", "compile", "channels_last", "recompute", "micro_batch", "optimizer_schedules", "learning_rate"}
MOST_NAMED = 4


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

    A run that differs from what is asked for in ``WHAT`` is another run: ``auto`` passes over it, ``last`` refuses. The
    number of images, intervals, batch size, devices, precision, workers, loggers, optimizers' options and what else is
    in ``HOW`` may change. A path that is named is taken as it is.

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
    passed_over = ""
    for folder in [Path(root)] if root else numbered:
        different = list(differences(folder, asked)) if asked is not None else []
        more = f", and {len(different) - MOST_NAMED} more" if len(different) > MOST_NAMED else ""
        why = f"{folder} is another run: {'; '.join(different[:MOST_NAMED])}{more}"
        if different and checkpoint != "last" and root is None:
            passed_over = passed_over or why
            continue
        found = last_good(folder)
        if found is not None and different:
            raise ValueError(f"{why}. Ask for the same, or name one of its checkpoints in --ckpt_path to go on anyway")
        if found is not None:
            return str(found)
    if checkpoint == "last":
        raise FileNotFoundError(f"there is no checkpoint in {root or base} to go on from: start without --ckpt_path")
    if passed_over:
        rank_zero_warn(f"--resume auto starts a new run, for {passed_over}")
    return None


def differences(folder: Path, asked: dict[str, Any]) -> Iterator[str]:
    """Name what makes a folder's run another one than a configuration asks for, with both values."""
    path = folder / "config.yaml"
    if not path.is_file():  # of a run that was made without the command line
        return
    saved = yaml.safe_load(path.read_text())
    for name in WHAT:
        there, here = saved, asked
        for part in name.split("."):
            there, here = (there or {}).get(part), (here or {}).get(part)
        yield from unlike(name, there, here)


def unlike(name: str, there: object, here: object) -> Iterator[str]:
    """Walk two values of a configuration and name where they differ."""
    owner, _, key = name.rpartition(".")
    if owner == "model.init_args" and key in HOW:
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
    own = run_of(Path(checkpoint)) if checkpoint else None
    if own is not None:
        return own
    if rank():
        return Path(os.environ.get(RUN_FOLDER, f"runs/{experiment}"))  # until the first process tells which
    base = Path("runs") / experiment
    number = max((int(path.name) for path in base.glob("*") if path.name.isdigit()), default=0) + 1
    while not claimed(base / str(number)):
        number += 1
    os.environ[RUN_FOLDER] = str(base / str(number))
    return base / str(number)


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
    moment. Where the file system has no locks, nothing is kept.

    Raises:
        RuntimeError: Another process trains there.
    """
    folder = folder.resolve()
    if folder in HELD or fcntl is None:  # as after a rollback: the lock would go with the first of two files
        return
    release()
    try:
        file = (folder / LOCK).open("a+")
    except OSError:
        return
    HELD[folder] = file
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return
        file.seek(0)
        owner = file.read() or "another process"
        release()
        raise RuntimeError(
            f"{owner} is training in {folder}, and two would overwrite each other's checkpoints. Wait until it has "
            "ended, or end it; without --resume and --ckpt_path a run gets a folder of its own"
        ) from error


def release() -> None:
    """Let others train in the folder that this process holds."""
    for file in HELD.values():
        file.close()
    HELD.clear()


def discard_empty_run() -> None:
    """Remove the folder of a run that failed before it wrote anything."""
    folder = Path(os.environ.get(RUN_FOLDER, ""))
    if rank() or RUN_FOLDER not in os.environ or not folder.is_dir():
        return
    if all(path.name == LOCK for path in folder.iterdir()):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
