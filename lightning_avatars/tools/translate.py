"""Given pictures or label maps, translated by a trained model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from pydoc import locate

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.base import FaceDataset
from lightning_avatars.data.batches import Batch
from lightning_avatars.data.decode import MapPreparation, Preparation
from lightning_avatars.data.sources import SUFFIXES, find
from lightning_avatars.evaluation.changes import functions_of, values
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.families.domain_translation import DomainTranslation
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.families.translation import Translation
from lightning_avatars.images import coloured, save_sheet, to_bytes
from lightning_avatars.labels import assign, groups, one_hot_groups, parse
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.extractors.recognizer import SHIPPED
from lightning_avatars.networks.per_domain import PerDomainTranslator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.reading import Given, Reader, alike, from_path, from_stream, read, readable
from lightning_avatars.seeding import seeded
from lightning_avatars.tiles import Pixels, tiled, up_to, whole
from lightning_avatars.tools.evaluate import device_of
from lightning_avatars.tools.sample import encode, writer

WHOLE = 2**20  # pixels that the network sees at a time, unless one tile has more
TILE = 512  # pixels on a side of the tiles of what is larger
SHOWN = 16  # pictures on the sheet
SIDE = 256  # pixels on a side of what is on the sheet, at most
NAMED = 20  # pictures that can't be read, by name


def translate(
    checkpoint: Path,
    pictures: Path,
    output: Path = Path("translated"),
    to: str | list[str] | None = None,
    labels: str | None = None,
    recognizer: str | None = None,
    maps: Path | None = None,
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
        labels: For attributes, what the pictures show, such as ``hair=curly``.
        recognizer: For attributes, a recogniser, by name or path, that tells what else the pictures show; by default
            the one that suits the data, if it is there. What it does not know is taken for what most training
            pictures show.
        maps: Label maps of the same names as the pictures, for models that take both.
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
    ways = ways_of(module, to, labels, recognizer)
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
    sheet = output.with_suffix(".png") if output.suffix == ".zip" else output / "sheet.png"
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


@dataclass(frozen=True)
class Way:
    """One translation that is asked for.

    Args:
        name: What the person called it.
        to: Name of the domain, where there are domains.
        labels: Fills in the labels of pictures, bytes N C H W, where attributes are changed.
    """

    name: str
    to: str | None = None
    labels: Callable[[Tensor], Tensor] | None = None

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^\w=,-]+", "_", self.name)


def ways_of(module: Translation, to: str | list[str] | None, labels: str | None, recognizer: str | None) -> list[Way]:
    """Look up what is asked for; raise where the module does not know it."""
    asked = [] if to is None else [to] if isinstance(to, str) else to
    if not isinstance(module, AttributeTranslation) and (labels or recognizer):
        raise ValueError(
            "--labels and --recognizer say what pictures show whose attributes are changed: leave them out"
        )
    if isinstance(module, AttributeTranslation):
        if not asked:
            raise ValueError(f"say by --to what to change, such as {module.label_names[0]}")
        judge = recognizer_of(module) if recognizer is None else load_extractor(recognizer, module.device)
        known = Known(module, labels, judge)
        return [Way(text, labels=known.towards(text)) for text in asked]
    if isinstance(module, DomainTranslation):
        reached = [module.domain_names[end] for _, end in module.directions.values()]
        unknown = next((name for name in asked if name not in reached), None)
        if unknown is not None:
            near = get_close_matches(unknown, reached, 1, 0.5)
            raise ValueError(f"--to {unknown}: this model translates to {' or '.join(near or reached)}")
        if not asked and len(reached) > 1:
            raise ValueError(f"say by --to which way: {' or '.join(reached)}")
        return [Way(name, to=name) for name in asked or reached]
    if asked:
        raise ValueError(f"this model translates one way only, so that it can't obey --to {asked[0]}: leave it out")
    return [Way("translated")]


def recognizer_of(module: Translation) -> Extractor | None:
    """Load the recogniser that suits the pictures which a module was trained on, where it comes with the project."""
    if module.config is None or "data" not in module.config:
        return None
    dataset = locate(module.config["data"]["dataset"]["class_path"])  # its pictures need not be there, nor the class
    name = getattr(dataset, "extractor", FaceDataset.extractor)
    return load_extractor(name, module.device) if (SHIPPED / f"{name}.safetensors").is_file() else None


@dataclass
class Known:
    """What is known of the labels of pictures, whose attributes are to be changed.

    Args:
        module: Changes them.
        labels: What the person says that all pictures show.
        recognizer: Tells the rest.
    """

    module: AttributeTranslation
    labels: str | None
    recognizer: Extractor | None

    def __post_init__(self) -> None:
        rows, names = self.module.label_rows, self.module.label_names
        usual = torch.zeros(1, len(names))
        for group, columns in groups(names).items():
            if not len(rows):
                continue
            mean = rows[:, columns].mean(0)
            exclusive = group in one_hot_groups(names)
            usual[0, columns] = F.one_hot(mean.argmax(), len(mean)).float() if exclusive else (mean > 0.5).float()
        self.usual = usual

    def towards(self, text: str) -> Callable[[Tensor], Tensor]:
        """Return what fills in labels of pictures that are to show what ``text`` says."""
        names = self.module.label_names
        said = parse(text, names)  # raises where something is not known
        if not said:
            raise ValueError(f"--to names no attributes: give some, such as {names[0]}")

        def fill(pictures: Tensor) -> Tensor:
            rows = self.shown(pictures)
            for group in said:
                rows = following(assign(rows, part_of(text, group), names), group, self.module.label_rows, names)
            return assign(rows, text, names)

        return fill

    def shown(self, pictures: Tensor) -> Tensor:
        """Tell what pictures show, N L."""
        names, rows = self.module.label_names, self.usual.repeat(len(pictures), 1)
        if self.recognizer is not None:
            logits = self.recognizer(pictures).logits
            theirs = self.recognizer.label_names
            for group, columns in groups(names).items():
                own = names[columns]
                if logits is None or not set(own) <= set(theirs):
                    continue
                part = logits[:, [theirs.index(name) for name in own]].cpu()
                exclusive = group in one_hot_groups(names)
                rows[:, columns] = F.one_hot(part.argmax(1), len(own)).float() if exclusive else (part > 0).float()
        return assign(rows, self.labels, names) if self.labels else rows


def part_of(text: str, group: str) -> str:
    """Find what a text says of one group of labels."""
    return next(part for part in map(str.strip, text.split(",")) if part.partition("=")[0] == group)


def following(labels: Tensor, group: str, rows: Tensor, names: list[str]) -> Tensor:
    """Set the groups that are a function of one group in training pictures, whose label rows are given."""
    value, columns = values(labels - 0.5, names)[group], groups(names)
    for other, by_value in functions_of(group, rows.cpu(), names).items():
        labels[:, columns[other]] = by_value[value]
    return labels


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


@dataclass(frozen=True)
class Tiles:
    """How pictures are cut.

    Args:
        side: Height and width of tiles.
        overlap: Pixels in which they overlap.
        always: Whether all pictures larger than a tile are cut, and not only those that are too large.
    """

    side: int
    overlap: int
    always: bool


def tiles_of(module: Translation, tile: int | None, overlap: int | None, resolution: int | None) -> Tiles:
    """Check and complete what is asked of tiles."""
    multiple = module.multiple
    side = up_to(TILE, multiple) if tile is None else tile
    if side < 2 or side % multiple:
        near = max(multiple, round(side / multiple) * multiple)
        raise ValueError(f"--tile must be a multiple of {multiple} for this model, got {side}: take {near}")
    if tile is not None and resolution is not None:
        raise ValueError("--tile cuts pictures and --resolution makes them all of one size: give one of them")
    overlap = side // 4 if overlap is None else overlap
    if not 0 <= overlap <= side // 2:
        raise ValueError(f"--overlap must be from 0 to half a tile, {side // 2}, got {overlap}")
    return Tiles(side, overlap, tile is not None)


@dataclass(frozen=True)
class Painted:
    """What was made of a picture: bytes, C H W."""

    name: str
    sources: list[Tensor]
    results: list[Tensor]


@dataclass(frozen=True)
class Painter:
    """Translates pictures of one size."""

    module: Translation
    tiles: Tiles
    batch_size: int

    def paint(self, pictures: list[Given], ways: list[Way]) -> Iterator[Painted]:
        """Translate pictures of one size every way."""
        pixels = {name: torch.cat([given.pixels[name] for given in pictures]) for name in pictures[0].pixels}
        made = [to_bytes(self.make(pixels, way)).cpu() for way in ways]
        sources = [coloured(x, len(self.module.mask_names)) if name == "mask" else x for name, x in pixels.items()]
        for i, given in enumerate(pictures):
            yield Painted(given.item.file, [x[i] for x in sources], [images[i] for images in made])

    def make(self, pixels: Pixels, way: Way) -> Tensor:
        """Translate pictures one way, in tiles where they must be."""
        labels = None if way.labels is None else way.labels(pixels["image"])
        height, width = next(iter(pixels.values())).shape[2:]
        multiple, (side, overlap) = self.module.multiple, (self.tiles.side, self.tiles.overlap)

        def of(part: Pixels) -> Tensor:
            return self.ask(part, way, labels)

        too_large = up_to(height, multiple) * up_to(width, multiple) > max(WHOLE, side**2)
        if not (too_large or (self.tiles.always and max(height, width) > side)):
            return whole(of, pixels, multiple)
        together = min(self.batch_size, max(1, WHOLE // side**2))
        results = []
        for i in range(len(next(iter(pixels.values())))):
            row = None if labels is None else labels[i : i + 1]

            def of_tiles(part: Pixels, row: Tensor | None = row) -> Tensor:
                return self.ask(part, way, row)

            one = {name: x[i : i + 1] for name, x in pixels.items()}
            results.append(tiled(of_tiles, one, side, overlap, together))
        return torch.cat(results)

    def ask(self, pixels: Pixels, way: Way, labels: Tensor | None) -> Tensor:
        """Let the module translate, always alike whatever it draws."""
        device, count = self.module.device, len(next(iter(pixels.values())))
        batch = Batch({name: x.to(device) for name, x in pixels.items()})
        batch["labels"] = torch.zeros(count, len(self.module.label_names), device=device)
        batch["index"] = torch.arange(count, device=device)
        given = None if labels is None else labels.expand(count, -1).to(device)
        with seeded(0, device):
            return self.module.translate(batch, to=way.to, labels=given)


class Sheet:
    """The first pictures that were translated, each beside its results."""

    def __init__(self) -> None:
        self.rows: list[list[Tensor]] = []

    def add(self, one: Painted) -> None:
        """Keep a small copy."""
        if len(self.rows) < SHOWN:
            self.rows.append([small(image) for image in (*one.sources, *one.results)])

    def save(self, path: Path) -> None:
        """Write them, some pictures side by side where they have few results."""
        height, width = (max(image.shape[side] for row in self.rows for image in row) for side in (1, 2))
        images = torch.stack([framed(image, height, width) for row in self.rows for image in row])
        each = len(self.rows[0])
        save_sheet(images, each * min(max(1, 8 // each), len(self.rows)), path)


def small(image: Tensor) -> Tensor:
    """Shrink a picture, C H W, to what fits on the sheet, in colour."""
    image = image.expand(3, -1, -1)
    scale = SIDE / max(image.shape[1:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)


def framed(image: Tensor, height: int, width: int) -> Tensor:
    """Put a picture into the middle of a white one."""
    above, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
    right, below = width - image.shape[2] - left, height - image.shape[1] - above
    return F.pad(image, (left, right, above, below), value=255)


def chained(first: Painted, rest: Iterator[Painted]) -> Iterator[Painted]:
    """Put back what was taken to look at."""
    yield first
    yield from rest
