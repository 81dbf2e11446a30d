"""CelebA: celebrity faces with 40 attributes and identities (Liu et al. 2015)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from lightning_avatars.data.base import Picture, Split
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.folder import ImageFolder
from lightning_avatars.data.sources import Source, find
from lightning_avatars.data.tables import read_header

PARTS = ("", "Img", "Anno", "Eval")
PUBLISHED: dict[str, Split] = {"0": "train", "1": "val", "2": "test"}
FIRST_VAL, FIRST_TEST = 162_771, 182_638
log = logging.getLogger(__name__)


class CelebA(ImageFolder):
    """CelebA's aligned images in its own layout.

    In ``path``, or in its subfolders Img, Anno and Eval: ``img_align_celeba/`` or ``img_align_celeba.zip``,
    ``list_attr_celeba.txt``, and where there ``identity_CelebA.txt`` (keeps each person in one split) and
    ``list_eval_partition.txt`` (the published split, else told by the files' numbers).

    Args:
        path: The folder that holds these files.
        columns: Attributes to use as labels, 0 or 1; by default all 40; ``[]`` needs no table.
        crop: Side of the centred square as a share of the width; the usual one is 148 of 178 pixels.
        split: Shares of train, validation and test, or ``standard`` for the published 162770, 19867 and 19962.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    def __init__(
        self,
        path: Path,
        columns: list[str] | None = None,
        crop: float = 148 / 178,
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
        max_rejected: float = 0.01,
    ) -> None:
        if not 0 < crop <= 1:
            raise ValueError(f"crop is {crop}; it must be above 0 and at most 1, the whole width")
        self.folder = Path(path).expanduser()
        attributes = None if columns == [] else self.part("list_attr_celeba.txt")
        super().__init__(path, attributes, columns or None, split=split, max_rejected=max_rejected)
        self.preparation = replace(self.preparation, crop=crop)

    @property
    def name(self) -> str:
        return "celeba"

    @property
    def source(self) -> Source:
        images = self.part("img_align_celeba")
        return find(images if images.is_dir() else self.part("img_align_celeba.zip"))

    @cached_property
    def label_names(self) -> list[str]:
        """Names of the attributes, from the head of the table: to read all of it takes seconds."""
        return self.columns or (read_header(self.attributes) if self.attributes else [])

    def part(self, name: str) -> Path:
        """Find a file of the published layout, or where it should be."""
        places = [self.folder / part / name for part in PARTS]
        return next((place for place in places if place.exists()), places[0])

    def fingerprint(self) -> dict[str, object]:
        parts = [self.part("identity_CelebA.txt"), self.part("list_eval_partition.txt")]
        return {**super().fingerprint(), "parts": [file_hash(part) if part.exists() else None for part in parts]}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        identities = read_pairs(self.part("identity_CelebA.txt"))
        partition = read_pairs(self.part("list_eval_partition.txt"))
        if not identities:
            log.warning("No identity_CelebA.txt in %s: one person may be in two splits.", self.folder)
        for picture in super().pictures(resolution):
            split = PUBLISHED.get(partition.get(picture.name, "")) if partition else by_number(picture.name)
            yield replace(picture, identity=identities.get(picture.name), split=split)


def read_pairs(path: Path) -> dict[str, str]:
    """Read lines of a file's name and a number; nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        return dict(line.split() for line in path.read_text().splitlines() if line.strip())
    except ValueError:
        raise ValueError(
            f"{path} is not as published: each line holds a file's name and a number; get it again"
        ) from None


def by_number(name: str) -> Split | None:
    """Tell the published split of a file from its number."""
    stem = Path(name).stem
    if not stem.isdecimal():
        return None
    return "train" if int(stem) < FIRST_VAL else "val" if int(stem) < FIRST_TEST else "test"
