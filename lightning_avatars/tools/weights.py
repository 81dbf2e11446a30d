"""The weights of networks that judge images: which are there, and how to get the others."""

from __future__ import annotations

from difflib import get_close_matches

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lightning_avatars.data.cache import file_hash
from lightning_avatars.metrics.extractors.vision_transformers import CLIP_L_336, DINOV2
from lightning_avatars.metrics.weights import (
    ALEXNET,
    ALEXNET_FEATURES,
    ARCFACE,
    INCEPTION,
    INCEPTION_FEATURES,
    VGG16,
    VGG16_FEATURES,
    Weights,
    fetch,
    weights_folder,
)

KNOWN = (INCEPTION, INCEPTION_FEATURES, ALEXNET, ALEXNET_FEATURES, VGG16, VGG16_FEATURES, DINOV2, CLIP_L_336, ARCFACE)


def weights(fetch: str | list[str] | None = None) -> None:
    """Show which weights of judging networks are there, or fetch some of them.

    Args:
        fetch: Names from the table, such as ``inception,alexnet``, to fetch from where they are published.

    Raises:
        ValueError: a name is unknown, or a file is not as it was published.
        OSError: an address can't be reached.
    """
    names = fetch.split(",") if isinstance(fetch, str) else fetch or []
    for chosen in [named(name.strip()) for name in names]:
        if state(chosen) != "present":
            fetch_visibly(chosen)
    Console().print(overview())


def named(name: str) -> Weights:
    """Find weights by their name."""
    known = {weights.name: weights for weights in KNOWN}
    if name not in known:
        raise ValueError(
            f"no weights are called {name!r}; there are {', '.join(get_close_matches(name, known) or known)}"
        )
    return known[name]


def state(weights: Weights) -> str:
    """Say whether the file is there and as it was published."""
    path = weights_folder() / weights.file
    if not path.is_file():
        return "absent"
    return "present" if file_hash(path) == weights.sha256 else "damaged"


def fetch_visibly(weights: Weights) -> None:
    """Fetch a file behind a progress bar."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(weights.name, total=None)
        fetch(weights, lambda done, total: progress.update(task, completed=done, total=total or None))


def overview() -> Table:
    """List all weights, what they are for and whether they are there."""
    table = Table(title=f"Weights in {escape(str(weights_folder()))}")
    for column in ("name", "needed for", "file", "state"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for weights in KNOWN:
        by_hand = "" if weights.address or state(weights) == "present" else ", put it there by hand"
        table.add_row(weights.name, weights.purpose, weights.file, state(weights) + by_hand)
    return table
