"""Avatars with a map of their parts and the colour of each: what paired translation paints from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from lightning_avatars.data.artwork_parts import PARTS, draw_many_parts
from lightning_avatars.data.avatars import Avatars, choose, draw_all, one_hot, options_of
from lightning_avatars.data.base import Picture


class AvatarParts(Avatars):
    """Curated avatars, each with its part map and a palette picture: every part filled with one colour.

    The avatars, their labels and their splits are those of ``Avatars`` with the same seed. A part's colour is the one
    that a person chooses for it (hair, clothes …), or else the one that most of it has. ``mask`` numbers the parts,
    ``source`` is the palette picture with hard edges, ``image`` the avatar with its shades and details.

    Args:
        count: Number of avatars. A larger one keeps the earlier avatars.
        seed: Seed of the attributes; the same seed gives the same pixels.
        attributes: Groups of labels to keep, such as ``[hair, skin]``; all by default. Pixels do not depend on it.
        background: Colour behind the avatar, ``#rrggbb``.
        split: Shares of train, validation and test.
    """

    source_channels = 3

    def __init__(
        self,
        count: int = 20_000,
        seed: int = 0,
        attributes: list[str] | None = None,
        background: str = "#ffffff",
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
    ) -> None:
        super().__init__(count, "avataaars", seed, attributes, background, split)

    @property
    def name(self) -> str:
        return "avatar_parts"

    @property
    def mask_names(self) -> list[str]:
        return PARTS

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "parts": self.mask_names}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        chosen = choose(self.seed, self.count)
        work = partial(draw_many_parts, resolution=resolution, background=self.background)
        drawn = draw_all(work, [options_of(values) for values in chosen], resolution)
        for i, (avatar, mask, palette) in enumerate(drawn):
            labels = one_hot(chosen[i], self.groups)
            yield Picture(f"{self.seed}-{i}", avatar.image, labels, avatar.digest, source=palette, mask=mask)
