"""How fast batches come: our cache against torchvision's ImageFolder and a DataLoader.

python -m experiments.speed.loading

Both read the same folder of pictures and give float images in [-1, 1] at the same size; they take turns.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.folder import ImageFolder
from lightning_avatars.images import to_float, to_picture

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "loading.json", HERE / "README.md"


def loading(
    pictures: int = 4_000, source: int = 128, resolution: int = 64, batch_size: int = 64, rounds: int = 5
) -> None:
    """Measure images per second of both; write ``loading.json`` and the page's table.

    Args:
        pictures: Pictures in the folder.
        source: Their height and width.
        resolution: Height and width of what is asked for.
        batch_size: Images of a batch.
        rounds: Measurements of each, of which the median is taken.
    """
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "all", pictures, source)
        data = FaceData(ImageFolder(Path(folder) / "all", split=(1, 0, 0)), resolution, batch_size, True)
        started = perf_counter()
        data.prepare_data()
        data.setup("fit")
        prepared = perf_counter() - started
        ways = {"ours, no workers": partial(ours, data)}
        for workers in (0, 2):
            ways[f"ImageFolder, {workers or 'no'} workers"] = partial(
                theirs, Path(folder), resolution, batch_size, workers
            )
        turns = [{name: rate(way(), pictures, batch_size) for name, way in ways.items()} for _ in range(rounds)]
    for name in ways:
        rows[name] = {
            "images_per_second": round(median(turn[name] for turn in turns)),
            "ratio": round(median(next(iter(turn.values())) / turn[name] for turn in turns), 1),
        }
    found = {
        "hardware": hardware(torch.device("cpu")), "pictures": pictures, "source": source, "resolution": resolution,
        "batch_size": batch_size, "rounds": rounds, "seconds_to_prepare": round(prepared, 1), "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    fill(PAGE, "loading", table(found))


def draw(folder: Path, count: int, size: int) -> None:
    """Write avatars as PNG files."""
    folder.mkdir()
    for number, picture in enumerate(Avatars(count).pictures(size)):
        assert picture.image is not None
        to_picture(torch.from_numpy(picture.image)).save(folder / f"{number:05d}.png")


def ours(data: FaceData) -> Iterator[Tensor]:
    """Batches as `fit` makes them."""
    for batch in data.train_dataloader():
        yield to_float(batch["image"])


def theirs(folder: Path, resolution: int, batch_size: int, workers: int) -> Iterator[Tensor]:
    """Batches as most tutorials make them."""
    steps = [Resize(resolution), CenterCrop(resolution), RandomHorizontalFlip(), ToTensor(), Normalize([0.5], [0.5])]
    dataset = TorchvisionFolder(str(folder), Compose(steps))
    for images, _ in DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True):
        yield images


def rate(batches: Iterator[Tensor], pictures: int, batch_size: int) -> float:
    """Read about every picture once; images per second, the first batch aside."""
    next(batches)
    count, started = pictures // batch_size - 1, perf_counter()
    for _ in islice(batches, count):
        pass
    return count * batch_size / (perf_counter() - started)


def table(found: dict[str, Any]) -> str:
    """Lay the results out."""
    lines = [
        f"## Loading on {found['hardware']}: {found['pictures']:,} pictures of {found['source']}² at "
        f"{found['resolution']}², batch {found['batch_size']}, medians of {found['rounds']}",
        "",
        "| batches by | images/s | ours are faster by |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {r['images_per_second']:,} | {r['ratio']:.1f} |" for name, r in found["rows"].items()]
    return "\n".join([*lines, "", f"Preparing the cache, once: {found['seconds_to_prepare']} s."])


if __name__ == "__main__":
    auto_cli(loading)
