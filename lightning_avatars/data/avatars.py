"""Avatars drawn on this machine from DiceBear's artwork, with every attribute known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lightning_avatars.data.artwork import (
    Options,
    check_style,
    draw_many,
    snake_case,
    variant_groups,
    versions,
)
from lightning_avatars.data.avataaars import AVATAAARS, FIXED
from lightning_avatars.data.base import FaceDataset, Picture
from lightning_avatars.data.workers import in_order, process_pool, progress
from lightning_avatars.seeding import uniform_at

T = TypeVar("T")
R = TypeVar("R")

FEW = 500  # avatars that are drawn before further processes have started


class Avatars(FaceDataset):
    """Cartoon faces drawn from DiceBear's artwork; nothing is downloaded.

    ``avataaars`` is curated: attributes are drawn independently and balanced (no beard under a hijab), and have
    friendly names. Every other style is drawn as DiceBear draws it, its labels being the variants of its components.

    Args:
        count: Number of avatars. A larger one keeps the earlier avatars.
        style: Artwork of ``dicebear-styles``: avataaars, lorelei, notionists, … Each has a licence of its own.
        seed: Seed of the attributes; the same seed gives the same pixels.
        attributes: Groups of labels to keep, such as ``[hair, skin]``; all by default. Pixels do not depend on it.
        background: Colour behind the avatar, ``#rrggbb``.
        split: Shares of train, validation and test.
    """

    def __init__(
        self,
        count: int = 20_000,
        style: str = "avataaars",
        seed: int = 0,
        attributes: list[str] | None = None,
        background: str = "#ffffff",
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
    ) -> None:
        super().__init__(split)
        check_count(count)
        check_background(background)
        check_style(style)
        self.count, self.style, self.seed, self.background = count, style, seed, background
        self.groups = chosen_groups(style, attributes)

    @property
    def name(self) -> str:
        return "avatars" if self.style == "avataaars" else f"avatars_{self.style.replace('-', '_')}"

    @property
    def label_names(self) -> list[str]:
        return [f"{group}={value}" for group, values in self.groups.items() for value in values]

    def fingerprint(self) -> dict[str, object]:
        return {
            "count": self.count,
            "style": self.style,
            "seed": self.seed,
            "background": self.background,
            "labels": self.label_names,
            "artwork": [AVATAAARS, FIXED] if self.style == "avataaars" else [],
            **versions(),
        }

    def pictures(self, resolution: int) -> Iterator[Picture]:
        chosen = choose(self.seed, self.count) if self.style == "avataaars" else []
        work = partial(draw_many, resolution=resolution, background=self.background)
        drawings = draw_all(work, orders(self.style, self.seed, self.count), resolution)
        for i, drawing in enumerate(drawings):
            values = chosen[i] if chosen else named(drawing.variants)
            yield Picture(f"{self.seed}-{i}", drawing.image, one_hot(values, self.groups), drawing.digest)


def orders(style: str, seed: int, count: int) -> list[tuple[str, Options]]:
    """List the avatars of a style with DiceBear's options: all of them where curated, else only a seed."""
    if style == "avataaars":
        return [(style, options_of(values)) for values in choose(seed, count)]
    return [(style, {"seed": f"{seed}-{i}"}) for i in range(count)]


def options_of(values: dict[str, str]) -> Options:
    """DiceBear's options for a curated avatar."""
    parts = [AVATAAARS[group][value].options for group, value in values.items()]
    return {key: option for part in [FIXED, *parts] for key, option in part.items()}


def one_hot(values: dict[str, str], groups: dict[str, list[str]]) -> npt.NDArray[np.float32]:
    """Write an avatar's values as labels: one number for each value of each group."""
    return np.array(
        [values.get(group, "none") == value for group, known in groups.items() for value in known], np.float32
    )


def check_count(count: int) -> None:
    """Raise unless there is something to draw."""
    if count < 1:
        raise ValueError(f"count is {count}; at least 1 avatar must be drawn")


def check_background(background: str) -> None:
    """Raise unless a colour is written ``#rrggbb``."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", background):
        raise ValueError(f"background is {background!r}; it must be a colour like #ffffff, six hexadecimal digits")


def chosen_groups(style: str, attributes: list[str] | None) -> dict[str, list[str]]:
    """Groups of labels of a style and their values, all or those asked for, in the style's own order."""
    if style == "avataaars":
        groups = {group: list(values) for group, values in AVATAAARS.items()}
    else:
        groups = {snake_case(group): [snake_case(v) for v in values] for group, values in variant_groups(style).items()}
    unknown = [group for group in attributes or [] if group not in groups]
    if unknown:
        raise ValueError(f"attributes {unknown} are not among those of style {style!r}: {', '.join(groups)}")
    return groups if attributes is None else {group: groups[group] for group in groups if group in attributes}


def named(variants: dict[str, str]) -> dict[str, str]:
    """Write what DiceBear drew in the words of the labels."""
    return {snake_case(group): snake_case(value) for group, value in variants.items()}


def choose(seed: int, count: int) -> list[dict[str, str]]:
    """Draw the attributes of ``count`` avataaars; each group and each avatar on its own."""
    columns: dict[str, npt.NDArray[np.str_]] = {}
    for group, values in AVATAAARS.items():
        shares = np.cumsum([value.share for value in values.values()])
        draws = uniform_at(seed, f"avatars/{group}", np.arange(count)) * shares[-1]
        columns[group] = np.array(list(values))[np.searchsorted(shares, draws, side="right")]
    columns["facial_hair"] = np.where(columns["hair"] == "hijab", "none", columns["facial_hair"])
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def draw_all(work: Callable[[list[T]], list[R]], items: list[T], resolution: int) -> Iterator[R]:
    """Draw avatars in order, on all cores where they are many; only a few at a time are in memory."""
    size = max(1, min(250, 2**24 // (3 * resolution**2)))
    chunks = (items[start : start + size] for start in range(0, len(items), size))
    task = f"Drawing {len(items):,} avatars at {resolution}x{resolution}"
    if len(items) <= FEW:
        yield from progress(chain.from_iterable(map(work, chunks)), task, len(items))
    else:
        with process_pool() as pool:
            yield from progress(chain.from_iterable(in_order(pool, work, chunks)), task, len(items))
