"""Given pictures or label maps, translated by a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.decode import MapPreparation, Preparation
from lightning_avatars.data.sources import SUFFIXES, find
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.families.translation import Translation
from lightning_avatars.images import sheet_of
from lightning_avatars.networks.per_domain import PerDomainTranslator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.painting import Painted, Painter, Sheet, tiles_of
from lightning_avatars.reading import Reader, alike, from_path, from_stream, read, readable
from lightning_avatars.tools.device import device_of
from lightning_avatars.tools.sample import encode, writer
from lightning_avatars.ways import ways_of

NAMED = 20  # pictures that can't be read, by name


def translate(
    checkpoint: Path,
    pictures: Path,
    output: Path = Path("translated"),
    to: str | list[str] | None = None,
    labels: str | None = None,
    recognizer: str | None = None,
    maps: Path | None = None,
    seeds: list[int] | None = None,
    resolution: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Translate given pictures or label maps: single PNGs, and a sheet of the first ones beside their sources.

    Pictures keep their size: the network sees them enlarged by their mirror image to what it takes. Of those above a
    megapixel, and with ``--tile`` of all that are larger than a tile, it sees overlapping tiles that fade over.

    Args:
        checkpoint: A checkpoint written by ``fit``; nothing else is needed.
        pictures: A picture, or a folder or zip of pictures; ``-`` reads paths from the standard input, a line each,
            and translates each picture as it comes. Of a model that paints label maps, these.
        output: A folder, or a file ending in .zip, that is not there yet or empty; the sheet lies beside or in it.
        to: A domain by name, or attributes such as ``mouth=smile,eyes=happy``; a list makes several results of each
            picture. Not needed where there is only one way.
        labels: For attributes, what the pictures show, such as ``hair=curly``. Of a model that paints by sources and
            labels, what the results show; what is not said is as in most training pictures.
        recognizer: For attributes, a recogniser, by name or path, that tells what else the pictures show; by default
            the one that suits the data, if it is there. What it does not know is taken for what most training
            pictures show.
        maps: Label maps of the same names as the pictures, for models that take both.
        seeds: Of models with an encoder of what the regions of label maps look like, such as ``[0,1,2]``: a result of
            each picture for each of these whole numbers. By default regions look as they do on average.
        resolution: Cut the largest centred square out of each picture and resize it, as for training; by default
            pictures stay as they are.
        tile: Pixels on a side of the tiles.
        overlap: Pixels in which tiles overlap; by default a quarter of a tile.
        batch_size: Pictures of one size that are translated at a time, at most.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: The checkpoint does not translate, or not so; the output is there; no picture can be read.
    """
    check_output(output)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    module = load_translation(checkpoint, device_of(device))
    ways = ways_of(module, to, labels, recognizer, seeds)
    reader = reader_of(module, resolution, maps)
    painter = Painter(module, tiles_of(module, tile, overlap, resolution), batch_size)
    streamed = str(pictures) == "-"
    items = from_stream(sys.stdin) if streamed else from_path(pictures)
    rejected: list[str] = []
    pieces = alike(readable(read(reader, items, streamed), rejected), 1 if streamed else batch_size)
    made = (painted for piece in pieces for painted in painter.paint(piece, ways))
    first = next(made, None)  # what can't be translated fails before the output is opened
    if first is None:
        listed = "\n  ".join(rejected[:NAMED])
        raise ValueError(f"none of {pictures} could be translated:\n  {listed}" if listed else "there are no pictures")
    say_size(module, first)
    shown, count = Sheet(), 0
    console = Console(stderr=True)
    with writer(output) as write, ThreadPoolExecutor() as pool:
        for one in track(chained(first, made), "translating", console=console, disable=not console.is_terminal):
            suffixes = [f"_{way.slug}" if len(ways) > 1 else "" for way in ways]
            for suffix, encoded in zip(suffixes, pool.map(encode, one.results), strict=True):
                write(f"{one.name}{suffix}.png", encoded)
            shown.add(one)
            count += 1
    sheet = sheet_of(output)
    shown.save(sheet)
    if rejected:
        more = f"\n  and {len(rejected) - NAMED} more" if len(rejected) > NAMED else ""
        listed = "\n  ".join(rejected[:NAMED])
        print(f"warning: left out, {len(rejected)} pictures:\n  {listed}{more}", file=sys.stderr)
    console.print(f"{count} pictures: [bold]{output}[/bold], sheet: [bold]{sheet}[/bold]", soft_wrap=True)


def say_size(module: Translation, one: Painted) -> None:
    """Say where a picture's size is far from what was trained on, for the network knows faces of that size alone."""
    side = ((module.config or {}).get("data") or {}).get("resolution")
    size = max(one.results[0].shape[1:])
    if side and not 0.67 < size / side < 1.5:
        print(
            f"warning: {one.name} has {size} pixels a side, and this model was trained on {side}: what it knows of "
            f"faces may not be found; --resolution {side} makes pictures as large as those",
            file=sys.stderr,
        )


def check_output(output: Path) -> None:
    """Raise where something would be overwritten, or a file is meant."""
    if output.suffix.lower() in SUFFIXES and not output.is_file():
        raise ValueError(f"--output {output}: results go to a folder or a zip; give {output.with_suffix('')}")
    if output.suffix == ".zip":
        there = next((path for path in (output, output.with_suffix(".png")) if path.exists()), None)
    else:
        filled = output.is_dir() and any(output.iterdir())
        there = output if filled or (output.exists() and not output.is_dir()) else None
    if there is not None:
        raise ValueError(f"{there} is there already, and nothing is overwritten: give another --output, or remove it")


def load_translation(path: Path, device: torch.device) -> Translation:
    """Rebuild a checkpoint's module; raise where it translates nothing."""
    module = load_module(path, device)
    if not isinstance(module, Translation):
        raise ValueError(
            f"{path} holds a {type(module).__name__}, which does not translate: give a checkpoint of pix2pix, "
            "cyclegan, stargan or their like; `edit` changes pictures by autoencoders"
        )
    return module


def reader_of(module: Translation, resolution: int | None, maps: Path | None) -> Reader:
    """Make what reads a module's pictures; raise where label maps are missing or of no use."""
    if resolution is not None and (resolution < 1 or resolution % module.multiple):
        raise ValueError(f"--resolution must be a multiple of {module.multiple} for this model, got {resolution}")
    side, preparations = resolution or 0, dict[str, Preparation]()
    paired = isinstance(module, PairedTranslation)
    planes = module.source_channels if paired else channels_of(module.generator)
    if planes not in (0, 1, 3):
        raise ValueError(f"this model takes sources of {planes} planes, which no picture file has")
    if planes:
        preparations["source" if paired else "image"] = Preparation(side, planes)
    classes = len(module.mask_names) if paired else 0
    if classes:
        preparations["mask"] = MapPreparation(side)
    if planes and classes and maps is None:
        raise ValueError("this model takes a label map with each picture: give them by --maps")
    if maps is not None and not (planes and classes):
        what = "label maps alone: give them as the pictures" if classes else "no label maps: leave --maps out"
        raise ValueError(f"this model takes {what}")
    found = None
    if maps is not None:
        source = find(maps)
        found = source, {str(PurePosixPath(name).with_suffix("")): name for name in source.names()}
    return Reader(preparations, resolution, found, classes)


def channels_of(generator: nn.Module) -> int:
    """Count the channels of the pictures that a generator translates."""
    network = next(iter(generator.networks.values())) if isinstance(generator, PerDomainTranslator) else generator
    assert isinstance(network, Translator)
    return network.source_channels


def chained(first: Painted, rest: Iterator[Painted]) -> Iterator[Painted]:
    """Put back what was taken to look at."""
    yield first
    yield from rest
