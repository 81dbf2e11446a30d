"""Avatars of several artists as domains: what unpaired translation goes between."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain, zip_longest
from typing import Literal

import numpy as np

from lightning_avatars.data.artwork import check_style, draw_many, versions
from lightning_avatars.data.avataaars import AVATAAARS, FIXED
from lightning_avatars.data.avatars import check_background, check_count, draw_all, orders
from lightning_avatars.data.base import FaceDataset, Picture

STYLES = {"avataaars": 10_000, "micah": 10_000}


class AvatarStyles(FaceDataset):
    """Avatars of two or more artwork styles, each a domain and a label; nobody is drawn in two styles.

    ``avataaars`` is curated as in ``Avatars``, where the same seed gives the same pictures and splits; every other
    style is drawn as DiceBear draws it.

    Args:
        styles: How many avatars of each style of ``dicebear-styles``, in the order of the domains. ``micah``, the
            default beside avataaars, shows the same view, head and shoulders, in another hand: outlines, flat shades.
        seed: Seed of the avatars; the same seed gives the same pixels.
        background: Colour behind the avatars, ``#rrggbb``, where a style has none of its own.
        split: Shares of train, validation and test.
    """

    def __init__(
        self,
        styles: dict[str, int] = STYLES,
        seed: int = 0,
        background: str = "#ffffff",
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
    ) -> None:
        super().__init__(split)
        if len(styles) < 2:
            raise ValueError(f"styles are {list(styles)}; name at least two, each with a number of avatars")
        for style, count in styles.items():
            check_style(style)
            check_count(count)
        check_background(background)
        self.styles, self.seed, self.background = dict(styles), seed, background

    @property
    def name(self) -> str:
        return "avatar_styles"

    @property
    def domain_names(self) -> list[str]:
        return list(self.styles)

    @property
    def label_names(self) -> list[str]:
        return [f"style={style}" for style in self.styles]

    def fingerprint(self) -> dict[str, object]:
        return {
            "styles": list(self.styles.items()),
            "seed": self.seed,
            "background": self.background,
            "artwork": [AVATAAARS, FIXED] if "avataaars" in self.styles else [],
            **versions(),
        }

    def pictures(self, resolution: int) -> Iterator[Picture]:
        columns = [orders(style, self.seed, count) for style, count in self.styles.items()]
        ordered = [order for order in chain.from_iterable(zip_longest(*columns)) if order]  # the first are of every one
        drawings = draw_all(partial(draw_many, resolution=resolution, background=self.background), ordered, resolution)
        drawn = dict.fromkeys(self.styles, 0)
        for (style, _), drawing in zip(ordered, drawings, strict=True):
            domain = self.domain_names.index(style)
            labels = np.eye(len(drawn), dtype=np.float32)[domain]
            name = f"{style}-{self.seed}-{drawn[style]}"
            drawn[style] += 1
            yield Picture(name, drawing.image, labels, drawing.digest, domain=domain)
