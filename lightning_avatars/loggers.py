"""Where a run's numbers and pictures go: a CSV file and Weights & Biases, both with images seen as their axis."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class Dashboard(WandbLogger):
    """Weights & Biases on an ``images_seen`` axis; offline where there is no key.

    Args:
        folder: The run's folder.
        experiment_name: What the run is called; runs of one experiment form a group.
    """

    def __init__(self, folder: Path, experiment_name: str) -> None:
        offline = not has_key() and "WANDB_MODE" not in os.environ
        super().__init__(
            name=f"{experiment_name}/{folder.name}",
            group=experiment_name,
            save_dir=folder,
            project="lightning-avatars",
            offline=offline,
            settings=wandb.Settings(silent=offline),
        )
        self.axis_defined = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.axis_defined:
            self.experiment.define_metric("*", step_metric="images_seen")
            self.axis_defined = True
        self.experiment.log({**metrics, "images_seen": step})


def has_key() -> bool:
    """Tell whether Weights & Biases can be reached with a key from the environment or the user's netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    with suppress(OSError, netrc.NetrcParseError):  # missing, unreadable or malformed
        return any("wandb" in host for host in netrc.netrc(path).hosts)
    return False


def default_loggers(folder: Path, experiment_name: str) -> list[Logger]:
    """A CSV file per start in ``logs/`` and the dashboard."""
    return [CSVLogger(folder, name="logs"), Dashboard(folder, experiment_name)]
