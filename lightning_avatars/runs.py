"""Folders of runs: ``runs/<experiment>/<n>``."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import Namespace

RUN_FOLDER = "LIGHTNING_AVATARS_RUN"  # tells the processes that Lightning starts which folder the first one made


def run_of(checkpoint: Path) -> Path | None:
    """Locate the run's folder that a checkpoint lies in, by its ``config.yaml``."""
    return next((f for f in (checkpoint.parent, checkpoint.parent.parent) if (f / "config.yaml").is_file()), None)


def experiment_name(config: Namespace) -> str:
    """Name the experiment after its last configuration file, or after its model's and its data's."""
    files = config.get("config") or [f for f in (config.model.get("__path__"), config.data.get("__path__")) if f]
    name = "_".join(Path(str(file)).stem for file in (files[-1:] if config.get("config") else files))
    return name or "unnamed"


def run_folder(experiment: str, checkpoint: str | None) -> Path:
    """Choose the run's folder: the checkpoint's own, or the next free ``runs/<experiment>/<n>``."""
    own = run_of(Path(checkpoint)) if checkpoint else None
    if own is not None:
        return own
    if rank():
        return Path(os.environ.get(RUN_FOLDER, f"runs/{experiment}/0"))  # only the first process writes
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
    """Number of this process among those of the run, as far as it can be known before they have met."""
    return max(int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def discard_empty_run() -> None:
    """Remove the folder of a run that failed before it wrote anything."""
    folder = Path(os.environ.get(RUN_FOLDER, ""))
    if not rank() and RUN_FOLDER in os.environ and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
