"""FFHQ: 70,000 portraits from Flickr (Karras et al. 2019)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_avatars.data.base import Picture, Split
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.folder import ImageFolder

FIRST_VAL, FIRST_TEST = 50_000, 60_000


class Entry(NamedTuple):
    """What the JSON says of a picture."""

    training: bool
    photo: str


class FFHQ(ImageFolder):
    """FFHQ's PNGs at any resolution, as folder or zip; a file's number is the picture's.

    Args:
        path: The folder or zip, such as ``images1024x1024`` or ``thumbnails128x128``.
        json: ``ffhq-dataset-v2.json``, where at hand: faces cut from one photo then stay in one split, and its
            categories tell the published split.
        split: Shares of train, validation and test, or ``standard``: the published 10,000 of validation are the test
            split, and the last 10,000 of the published 60,000 of training are the validation split.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    def __init__(
        self,
        path: Path,
        json: Path | None = None,
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
        max_rejected: float = 0.01,
    ) -> None:
        super().__init__(path, split=split, max_rejected=max_rejected)
        self.json = None if json is None else Path(json).expanduser()

    @property
    def name(self) -> str:
        return "ffhq"

    def fingerprint(self) -> dict[str, object]:
        source = super().fingerprint()
        if self.json is not None and not self.json.is_file():
            raise FileNotFoundError(
                f"no FFHQ JSON at {self.json}; give the path of ffhq-dataset-v2.json, or leave it out"
            )
        return {**source, "json": self.json and file_hash(self.json)}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        entries = None if self.json is None else read_json(self.json)
        for picture in super().pictures(resolution):
            number = number_of(picture.name)
            if entries is None:
                yield replace(picture, split=published(number, number < FIRST_TEST))
            elif number in entries:
                training, photo = entries[number]
                yield replace(picture, identity=photo, split=published(number, training))
            else:
                raise ValueError(
                    f"{self.json} has no entry for {picture.name}; remove the picture or get the JSON again"
                )


def number_of(name: str) -> int:
    """Read a picture's number from the end of its file's name."""
    found = re.search(r"\d+$", Path(name).stem)
    if found is None:
        raise ValueError(
            f"{name} is not called like a picture of FFHQ, such as 00000.png; remove it or use ImageFolder"
        )
    return int(found[0])


def published(number: int, training: bool) -> Split:
    """Tell the split of ``split: standard``."""
    if not training:
        return "test"
    return "train" if number < FIRST_VAL else "val"


def read_json(path: Path) -> dict[int, Entry]:
    """Read what is used of FFHQ's JSON: each picture's category and the photo it was cut from."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(number): Entry(entry["category"] == "training", entry["metadata"]["photo_url"])
            for number, entry in contents.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not FFHQ's JSON ({error!r}); give ffhq-dataset-v2.json, or leave it out"
        ) from error
