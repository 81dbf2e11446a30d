"""Folders of runs: ``runs/<experiment>/<n>``."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import Namespace

from lightning_avatars.checkpoints import last_good

RUN_FOLDER = "LIGHTNING_AVATARS_RUN"  # tells the processes that Lightning starts which folder the first one made


def run_of(checkpoint: Path) -> Path | None:
    """Locate the run's folder that a checkpoint lies in, by its ``config.yaml``."""
    return next((f for f in (checkpoint.parent, checkpoint.parent.parent) if (f / "config.yaml").is_file()), None)


def experiment_name(config: Namespace) -> str:
    """Name the experiment after its last configuration file, or after its model's and its data's."""
    files = config.get("config") or [f for f in (config.model.get("__path__"), config.data.get("__path__")) if f]
    name = "_".join(Path(str(file)).stem for file in (files[-1:] if config.get("config") else files))
    return name or "unnamed"


def continued(checkpoint: str | None, resume: str, experiment: str, root: str | None) -> str | None:
    """Choose the checkpoint that a run goes on from.

    Args:
        checkpoint: What ``--ckpt_path`` says; ``last`` is the newest undamaged one of the experiment's newest run.
        resume: ``auto`` for ``last`` where there is one, and a new run where there is none.
        experiment: Name of the experiment.
        root: The run's folder, where one was chosen.

    Raises:
        FileNotFoundError: ``last`` was asked for and there is none.
    """
    if checkpoint != "last" and (checkpoint is not None or resume != "auto"):
        return checkpoint
    base = Path("runs") / experiment
    numbered = sorted((path for path in base.glob("*") if path.name.isdigit()), key=lambda path: -int(path.name))
    for folder in [Path(root)] if root else numbered:
        found = last_good(folder)
        if found is not None:
            return str(found)
    if checkpoint == "last":
        raise FileNotFoundError(f"there is no checkpoint in {root or base} to go on from: start without --ckpt_path")
    return None


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
