"""Where a run's numbers and pictures go: a CSV file and Weights & Biases, both with images seen as their axis."""

from __future__ import annotations

import csv
import netrc
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_avatars.disk import put_in_place, spared
from lightning_avatars.runs import ID_FILE, rank


class Dashboard(WandbLogger):
    """Weights & Biases on an ``images_seen`` axis; offline where there is no key. A resumed run goes on in its own.

    Args:
        folder: The run's folder.
        experiment_name: What the run is called; runs of one experiment form a group.
        anew: Whether training starts anew, and is another run even where the folder has one.
    """

    def __init__(self, folder: Path, experiment_name: str, anew: bool = False) -> None:
        offline = not has_key() and "WANDB_MODE" not in os.environ
        super().__init__(
            name=f"{experiment_name}/{folder.name}",
            group=experiment_name,
            save_dir=folder,
            project="lightning-avatars",
            id=run_id(folder, anew),
            resume=None if offline else "allow",
            offline=offline,
            settings=wandb.Settings(silent=offline),
        )
        self.folder, self.begun = folder, False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.begun:
            self.experiment.define_metric("*", step_metric="images_seen")
            self.keep_id()
            self.begun = True
        self.experiment.log({**metrics, "images_seen": step})

    def keep_id(self) -> None:
        """Write down the run's name on the dashboard, under which there is something from now on."""
        temporary = self.folder / f"{ID_FILE}.part"
        with spared(f"the name of the run on the dashboard, in {self.folder},"):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(self._id)
            put_in_place(temporary, self.folder / ID_FILE)


class Table(CSVLogger):
    """A CSV file that waits with its rows while the disk is full, and costs the run nothing.

    Rows are appended; where they bring a new column, the whole file is written anew beside the old one.
    """

    columns: tuple[str, ...] = ()

    @rank_zero_only
    def save(self) -> None:
        path, rows = Path(self.experiment.metrics_file_path), self.experiment.metrics
        columns = tuple(sorted({*self.columns, *chain(*rows)}))
        if not rows:
            return
        with spared("a table of logs"):
            if columns == self.columns:
                append(path, columns, rows)
            else:
                temporary = path.with_suffix(".part")
                before = list(csv.DictReader(path.read_text().splitlines())) if self.columns else []
                append(temporary, columns, [dict(zip(columns, columns, strict=True)), *before, *rows])
                put_in_place(temporary, path)
            self.columns = columns
            rows.clear()


def append(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows at the end of a CSV file, all or none."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerows(rows)
    except OSError:
        if path.is_file():
            os.truncate(path, size)
        raise


def run_id(folder: Path, anew: bool = False) -> str | None:
    """Return the name by which the dashboard knows the run of a folder, or a new one; it is kept once it has logged.

    None on all processes but the first, which alone talks to the dashboard.
    """
    if rank():
        return None
    path = folder / ID_FILE
    known = "" if anew or not path.is_file() else path.read_text()
    return known or secrets.token_hex(8)


def has_key() -> bool:
    """Tell whether Weights & Biases can be reached with a key from the environment or the user's netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    with suppress(OSError, netrc.NetrcParseError):  # missing, unreadable or malformed
        return any("wandb" in host for host in netrc.netrc(path).hosts)
    return False


def default_loggers(folder: Path, experiment_name: str, anew: bool = False) -> list[Logger]:
    """A CSV file per start in ``logs/`` and the dashboard."""
    return [Table(folder, name="logs"), Dashboard(folder, experiment_name, anew)]
