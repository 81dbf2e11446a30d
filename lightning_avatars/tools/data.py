"""Look at a dataset before training on it: counts, sizes, rejects, copies, labels, classes, domains and a sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch, whole_batch
from lightning_avatars.data.splits import SPLITS
from lightning_avatars.data.store import Store
from lightning_avatars.images import coloured, save_sheet

MOST_LINES = 40
MOST_LABELS = 100
MOST_MAPS = 2000
SHEET_PIXELS = 1200


def data(data: FaceData, output: Path | None = None) -> None:
    """Show what a dataset holds, and write a sheet of its pictures.

    Beside each picture are what it is translated from, its label map in colours, and its counterpart, where there are
    any; each domain has rows of its own.

    Args:
        data: The dataset, its resolution and its splits.
        output: The sheet's file; by default ``runs/data/<dataset>-<resolution>.png``.
    """
    data.prepare_data()
    data.setup("fit")
    store, console = data.store, Console()
    console.print(overview(data, store))
    if store.rejected:
        console.print(rejects(store.rejected))
    if store.label_names:
        console.print(balance(store))
    if store.domains is not None:
        console.print(domains(store, store.domains, data.domain_names))
    if data.mask_names:
        console.print(classes(store, data.mask_names))
    output = output or Path("runs", "data", f"{data.dataset.name}-{data.resolution}.png")
    images, columns = look(data, store)
    save_sheet(images, columns, output)
    console.print(f"A sheet of pictures: {output}", soft_wrap=True, markup=False)


def overview(data: FaceData, store: Store) -> Table:
    """Tell counts, sizes, copies and identities."""
    table = Table(title=f"{escape(data.dataset.name)} at {data.resolution} x {data.resolution}", show_header=False)
    for split, count in store.counts().items():
        table.add_row(f"{split} pictures", f"{count:,} ({count / len(store):.1%})")
    table.add_row("rejected pictures", f"{len(store.rejected):,}")
    copies, across = copies_of(store.digests, store.splits)
    if data.source_channels:
        table.add_row("sources", f"{data.source_channels} channels")
    if data.mask_names:
        table.add_row("label maps", f"{len(data.mask_names)} classes")
    if store.others is not None:
        table.add_row("counterparts", "one for each picture")
    table.add_row("exact copies", f"{copies:,}" + (f", {across:,} in more than one split" if across else ""))
    if store.identities is not None:
        known = [who for who in store.identities if who]
        table.add_row("identities", f"{len(set(known)):,} in {len(known):,} pictures")
    known_sizes = store.sizes[store.sizes.min(axis=1) > 0]
    if len(known_sizes):
        table.add_row("source sizes", sizes(known_sizes))
        table.add_row("enlarged pictures", f"{int((known_sizes.min(axis=1) < data.resolution).sum()):,}")
    stored = sum(file.stat().st_size for file in store.directory.iterdir())
    table.add_row("store", f"{stored / 2**20:,.1f} MiB, {'compressed' if store.compressed else 'raw'}")
    table.add_row("folder", escape(str(store.directory)))
    return table


def domains(store: Store, of: npt.NDArray[np.int64], names: list[str]) -> Table:
    """Count the pictures of each domain in each split."""
    table = Table("domain", *SPLITS, title="Domains: pictures")
    for place, name in enumerate(names):
        counts = np.bincount(store.splits[of == place], minlength=len(SPLITS))
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    return table


def classes(store: Store, names: list[str]) -> Table:
    """Tell how much of the label maps each class covers, and in how many of them it is; of many maps, some are read."""
    maps = [store.read(np.array([place]), "masks") for place in chosen(np.arange(len(store)), MOST_MAPS)]
    counts = np.stack([np.bincount(one.ravel(), minlength=len(names)) for one in maps])
    title = f"Classes of {len(maps):,} label maps" if len(maps) < len(store) else "Classes of the label maps"
    table = Table("class", "name", "share of pixels", "share of maps", title=title)
    covered, present = counts.sum(0) / counts.sum(), (counts > 0).mean(0)
    for number, (name, pixels, pictures) in enumerate(zip(names, covered, present, strict=True)):
        table.add_row(str(number), escape(name), f"{pixels:.2%}", f"{pictures:.1%}")
    return table


def copies_of(digests: npt.NDArray[np.uint8], splits: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Count pictures that repeat an earlier one, and pictures with copies in more than one split."""
    keys = np.ascontiguousarray(digests).view("V16").ravel()
    distinct, group = np.unique(keys, return_inverse=True)
    seen = np.zeros((len(distinct), len(SPLITS)), bool)
    seen[group, splits] = True
    return len(keys) - len(distinct), int((seen.sum(axis=1) > 1).sum())


def sizes(known: npt.NDArray[np.int32]) -> str:
    """Describe widths and heights."""
    distinct, counts = np.unique(known, axis=0, return_counts=True)
    common = " x ".join(map(str, distinct[counts.argmax()]))
    if len(distinct) == 1:
        return common
    smallest, largest = (" x ".join(map(str, known[pick])) for pick in (extreme(known, 0), extreme(known, -1)))
    return f"{smallest} to {largest}, mostly {common}"


def extreme(known: npt.NDArray[np.int32], place: int) -> int:
    """Find the picture with the fewest pixels, place 0, or the most, place -1."""
    return int(np.argsort(known.astype(np.int64).prod(axis=1), kind="stable")[place])


def rejects(rejected: list[tuple[str, str]]) -> Table:
    """List pictures that were left out."""
    table = Table("picture", "left out because", title="Rejected pictures")
    for name, error in rejected[:MOST_LINES]:
        table.add_row(escape(name), escape(error))
    if len(rejected) > MOST_LINES:
        table.add_row(f"and {len(rejected) - MOST_LINES:,} more", "")
    return table


def balance(store: Store) -> Table:
    """Tell the mean of each label in each split: its share where it is 0 or 1."""
    of_split = [store.labels[store.splits == place] for place in range(len(SPLITS))]
    means = [[f"{mean:.3f}" for mean in labels.mean(axis=0)] if len(labels) else [] for labels in of_split]
    table = Table("label", *SPLITS, title="Labels: share or mean")
    for place, name in list(enumerate(store.label_names))[:MOST_LABELS]:
        table.add_row(escape(name), *(mean[place] if mean else "none" for mean in means))
    if len(store.label_names) > MOST_LABELS:
        table.add_row(f"and {len(store.label_names) - MOST_LABELS} more", *[""] * len(SPLITS))
    return table


def look(data: FaceData, store: Store) -> tuple[Tensor, int]:
    """Choose pictures, and lay what is beside each beside it; each domain begins a row of its own.

    Returns:
        Bytes, N C H W, and how many make a row.
    """
    width = len(store.planes) + (store.others is not None)
    of = np.zeros(len(store), np.int64) if store.domains is None else store.domains
    sets = [np.flatnonzero(of == domain) for domain in np.unique(of)]
    across = max(1, min(max(2, min(12, SHEET_PIXELS // data.resolution)) // width, *map(len, sets), len(store)))
    rows = max(1, min(across * width, 8) // len(sets))
    counts = [min(rows, len(places) // across) * across for places in sets[:-1]] + [rows * across]
    index = np.concatenate([chosen(places, count) for places, count in zip(sets, counts, strict=True)])
    return shown_of(whole_batch(store, index), len(data.mask_names)), across * width


def shown_of(batch: Batch, classes: int) -> Tensor:
    """Lay sources, label maps, pictures and their counterparts side by side: bytes, one after the other, C H W."""
    maps = [coloured(batch["mask"], classes)] if "mask" in batch else []
    sources, others = ([batch[name]] if name in batch else [] for name in ("source", "other"))
    parts = [*sources, *maps, batch["image"], *others]
    channels = max(len(part[0]) for part in parts)
    parts = [part.expand(-1, channels, -1, -1) if len(part[0]) == 1 else part for part in parts]
    return torch.stack(parts, 1).flatten(0, 1)


def chosen(places: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Choose some places at even distances."""
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(np.int64)]
