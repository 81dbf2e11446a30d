"""Pairs of pictures: what is translated, a picture or a label map, and what it should become."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from lightning_avatars.data.base import FaceDataset, Picture
from lightning_avatars.data.decode import Decoded, Decoder, HalfPreparation, MapPreparation, PairDecoder, Preparation
from lightning_avatars.data.folder import check_background, decode, some, split_of
from lightning_avatars.data.sources import find
from lightning_avatars.data.workers import progress

MOST_CLASSES = 256
HALVES: dict[str, Literal["left", "right"]] = {"left": "right", "right": "left"}  # a source's half -> its target's


class PairedFolder(FaceDataset):
    """Pairs of pictures with equal names, the suffix apart, or side by side in one picture.

    Targets, sources and label maps each lie in a folder, a zip or a folder in a zip (``pairs.zip/masks``); a pair may
    have a source, a label map or both. Its pictures may differ in size but not in shape, and are cut alike. Pairs of
    one source, as of one label map where there is no source, are in one split.

    Args:
        images: The targets; with ``source_half``, pictures of double width that hold target and source.
        sources: The pictures that are translated.
        maps: Label maps: pictures of one channel, or of a palette, that hold class numbers, never interpolated.
        source_half: Which half is the source, where the two are side by side.
        classes: Names of the maps' classes by their numbers, or how many there are.
        fit: What to do with pictures that are not square: ``crop`` takes the largest centred square, ``pad`` keeps all
            and fills up with the background, maps with class 0.
        background: Colour under transparent parts and around padded pictures: a name or ``#rrggbb``.
        channels: Of the targets: 3 for colour, 1 for gray.
        source_channels: Of the sources: 3 for colour, 1 for gray.
        split: Shares of train, validation and test, or ``standard``: as folders called train, val and test tell.
        max_rejected: Largest share of unreadable pairs that is left out and listed; above it the run stops.
    """

    def __init__(
        self,
        images: Path,
        sources: Path | None = None,
        maps: Path | None = None,
        source_half: Literal["left", "right"] | None = None,
        classes: list[str] | int | None = None,
        fit: Literal["crop", "pad"] = "crop",
        background: str = "white",
        channels: Literal[1, 3] = 3,
        source_channels: Literal[1, 3] = 3,
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
        max_rejected: float = 0.01,
    ) -> None:
        super().__init__(split, max_rejected)
        if sources is not None and source_half is not None:
            raise ValueError(
                "sources are asked for twice: give their folder, or source_half where they are side by side"
            )
        if sources is None and source_half is None and maps is None:
            raise ValueError(f"pairs of {images} with what? Give sources, source_half or maps")
        if (maps is None) != (classes is None):
            raise ValueError(f"maps ({maps}) and their classes ({classes}) go together: give both or neither")
        check_background(background)
        self.channels, self.source_channels = channels, source_channels if sources or source_half else 0
        self.classes = [] if classes is None else named(classes)
        prepared, source_prepared = (Preparation(0, count, fit, background) for count in (channels, source_channels))
        if source_half is not None:
            prepared = HalfPreparation(0, channels, fit, background, half=HALVES[source_half])
            source_prepared = HalfPreparation(0, source_channels, fit, background, half=source_half)
        places = {"image": images, "source": images if source_half else sources, "mask": maps}
        preparations = {"image": prepared, "source": source_prepared, "mask": MapPreparation(0, fit=fit)}
        self.parts = {part: Path(path).expanduser() for part, path in places.items() if path is not None}
        self.preparations = {part: preparations[part] for part in self.parts}

    @property
    def name(self) -> str:
        common = Path(os.path.commonpath([path.resolve() for path in self.parts.values()]))
        return common.stem or self.parts["image"].stem

    @property
    def label_names(self) -> list[str]:
        return []

    @property
    def mask_names(self) -> list[str]:
        return self.classes

    def fingerprint(self) -> dict[str, object]:
        return {
            part: {"source": find(path).fingerprint(), **self.preparations[part].fingerprint()}
            for part, path in self.parts.items()
        }

    def pictures(self, resolution: int) -> Iterator[Picture]:
        pairs = matched({part: (path, find(path).names()) for part, path in self.parts.items()})
        decoders = {
            part: Decoder(find(path), replace(self.preparations[part], resolution=resolution))
            for part, path in self.parts.items()
        }
        decoded = decode(PairDecoder(decoders), pairs)
        for names, pair in zip(pairs, progress(decoded, f"Preparing {self.name}", len(pairs)), strict=True):
            image, source, mask = pair["image"], pair.get("source", Decoded()), pair.get("mask", Decoded())
            error = problem(names, pair)
            if mask.image is not None:
                self.check_classes(names["mask"], int(mask.image.max()))
            yield Picture(
                names["image"],
                None if error else image.image,
                np.zeros(0, np.float32),
                image.digest,
                split=split_of(names["image"]),
                error=error,
                size=image.size,
                source=source.image,
                mask=mask.image,
                origin=(source if "source" in pair else mask).digest,
            )

    def check_classes(self, name: str, largest: int) -> None:
        """Raise for a map with a class that is not known."""
        if largest >= len(self.classes):
            raise ValueError(
                f"{self.parts['mask'] / name} has class {largest}, but the configuration knows {len(self.classes)} "
                f"classes, 0 to {len(self.classes) - 1}: name all classes in the dataset's classes, or correct the map"
            )


def named(classes: list[str] | int) -> list[str]:
    """Name the classes of label maps; raise where there are too few, too many or two of one name."""
    names = [f"class_{number}" for number in range(classes)] if isinstance(classes, int) else classes
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise ValueError(f"classes must be 2 to {MOST_CLASSES} different names, or their number, got {classes}")
    return names


def matched(parts: dict[str, tuple[Path, list[str]]]) -> list[dict[str, str]]:
    """Pair up names that are equal but for the suffix; raise unless each has its counterpart in every part.

    Args:
        parts: What each picture of a pair is -> where they lie, and their names.

    Returns:
        The pairs: what each picture is -> its name, in the order of the images' names.
    """
    stems = {part: by_stem(path, names) for part, (path, names) in parts.items()}
    images, (where, _) = stems["image"], parts["image"]
    for part, others in stems.items():
        path = parts[part][0]
        lonely = [name for stem, name in images.items() if stem not in others]
        if lonely:
            raise ValueError(
                f"{len(lonely)} pictures of {where} have no {part} of the same name in {path}: {some(lonely)} (those "
                f"there are called {some(sorted(others.values()))}); add them or remove the pictures"
            )
        spare = [name for stem, name in others.items() if stem not in images]
        if spare:
            raise ValueError(
                f"{len(spare)} of {path} have no picture of the same name in {where}: {some(spare)} (pictures there "
                f"are called {some(sorted(images.values()))}); add pictures or remove them"
            )
    return [{part: others[stem] for part, others in stems.items()} for stem in images]


def by_stem(path: Path, names: list[str]) -> dict[str, str]:
    """Name without suffix -> name; raise where two pictures would be one."""
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(str(PurePosixPath(name).with_suffix("")), name)
        if other != name:
            raise ValueError(f"{path} has {other} and {name}, which differ in the suffix alone; keep one of them")
    return stems


def problem(names: dict[str, str], pair: dict[str, Decoded]) -> str | None:
    """Say why a pair cannot be used: a picture that cannot be read, or two shapes; None where it can."""
    for part, decoded in pair.items():
        if decoded.error is not None:
            return decoded.error if part == "image" else f"its {part} {names[part]}: {decoded.error}"
    (width, height), *others = (decoded.size or (0, 0) for decoded in pair.values())
    for part, (other_width, other_height) in zip(list(pair)[1:], others, strict=True):
        if abs(width * other_height - height * other_width) > max(width, height, other_width, other_height):
            return (
                f"{width} x {height} pixels, but its {part} has {other_width} x {other_height}: the two must have one "
                "shape, so that they are cut alike"
            )
    return None
