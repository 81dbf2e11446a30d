"""Avatars drawn on this machine from DiceBear's artwork, with every attribute known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_avatars.data.artwork import (
    Drawing,
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
        if count < 1:
            raise ValueError(f"count is {count}; at least 1 avatar must be drawn")
        if not re.fullmatch("#[0-9a-fA-F]{6}", background):
            raise ValueError(f"background is {background!r}; it must be a colour like #ffffff, six hexadecimal digits")
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
        options = [self.options(i, chosen) for i in range(self.count)]
        drawings = draw_all(self.style, options, resolution, self.background)
        task = f"Drawing {self.count:,} avatars at {resolution}x{resolution}"
        for i, drawing in enumerate(progress(drawings, task, self.count)):
            values = chosen[i] if chosen else named(drawing.variants)
            labels = [values.get(group, "none") == value for group, known in self.groups.items() for value in known]
            yield Picture(f"{self.seed}-{i}", drawing.image, np.array(labels, np.float32), drawing.digest)

    def options(self, index: int, chosen: list[dict[str, str]]) -> Options:
        """DiceBear's options for one avatar: all of them where ``chosen``, else only its seed."""
        if not chosen:
            return {"seed": f"{self.seed}-{index}"}
        parts = [AVATAAARS[group][value].options for group, value in chosen[index].items()]
        return {key: option for part in [FIXED, *parts] for key, option in part.items()}


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


def draw_all(style: str, options: list[Options], resolution: int, background: str) -> Iterator[Drawing]:
    """Draw avatars in order, on all cores where they are many; only a few at a time are in memory."""
    size = max(1, min(250, 2**24 // (3 * resolution**2)))
    chunks = (options[start : start + size] for start in range(0, len(options), size))
    work = partial(draw_many, style, resolution=resolution, background=background)
    if len(options) <= FEW:
        yield from chain.from_iterable(map(work, chunks))
    else:
        with process_pool() as pool:
            yield from chain.from_iterable(in_order(pool, work, chunks))
