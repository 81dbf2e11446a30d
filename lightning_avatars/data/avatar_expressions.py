"""The same people in several expressions: what changes of attributes can be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Literal

from lightning_avatars.data.artwork import draw_many, versions
from lightning_avatars.data.avataaars import AVATAAARS, FIXED
from lightning_avatars.data.avatars import Avatars, choose, draw_all, one_hot, options_of
from lightning_avatars.data.base import Picture

EXPRESSIONS: dict[str, dict[str, str]] = {  # values of groups of ``AVATAAARS``; no two share all that is seen
    "neutral": {"eyes": "normal", "eyebrows": "flat", "mouth": "serious"},
    "happy": {"eyes": "happy", "eyebrows": "normal", "mouth": "smile"},
    "surprised": {"eyes": "surprised", "eyebrows": "raised", "mouth": "open"},
    "sad": {"eyes": "normal", "eyebrows": "sad", "mouth": "sad"},
    "angry": {"eyes": "normal", "eyebrows": "angry", "mouth": "teeth"},
    "cheeky": {"eyes": "wink", "eyebrows": "uneven", "mouth": "tongue"},
    "calm": {"eyes": "closed", "eyebrows": "normal", "mouth": "closed_smile"},
}


class AvatarExpressions(Avatars):
    """Curated avatars, each person in several expressions; all else about a person stays the same.

    An expression sets eyes, eyebrows and mouth together. Nobody wears sunglasses, for they would hide the eyes. All
    pictures of a person are in one split.

    Args:
        count: Number of people. A larger one keeps the earlier people.
        expressions: Expressions of each person: neutral, happy, surprised, sad, angry, cheeky, calm; all by default.
        seed: Seed of the people's attributes; the same seed gives the same pixels.
        attributes: Groups of labels to keep after the expression, such as ``[hair, skin]``; all by default. They are
            those of ``Avatars``, and eyes, eyebrows and mouth are among them. Pixels do not depend on it.
        background: Colour behind the avatar, ``#rrggbb``.
        split: Shares of train, validation and test.
    """

    counterparts = True

    def __init__(
        self,
        count: int = 3_000,
        expressions: list[str] | None = None,
        seed: int = 0,
        attributes: list[str] | None = None,
        background: str = "#ffffff",
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
    ) -> None:
        super().__init__(count, "avataaars", seed, attributes, background, split)
        self.expressions = chosen_expressions(expressions)
        self.groups = {"expression": list(self.expressions), **self.groups}

    @property
    def name(self) -> str:
        return "avatar_expressions"

    def fingerprint(self) -> dict[str, object]:
        return {
            "count": self.count,
            "expressions": self.expressions,
            "seed": self.seed,
            "background": self.background,
            "labels": self.label_names,
            "artwork": [AVATAAARS, FIXED],
            **versions(),
        }

    def pictures(self, resolution: int) -> Iterator[Picture]:
        people = product(enumerate(choose(self.seed, self.count)), self.expressions.items())
        shown = [(f"{self.seed}-{i}", name, {**bare_eyed(values), **face}) for (i, values), (name, face) in people]
        work = partial(draw_many, resolution=resolution, background=self.background)
        drawings = draw_all(work, [("avataaars", options_of(values)) for _, _, values in shown], resolution)
        for (person, name, values), drawing in zip(shown, drawings, strict=True):
            labels = one_hot({"expression": name, **values}, self.groups)
            yield Picture(f"{person}-{name}", drawing.image, labels, drawing.digest, identity=person)


def chosen_expressions(names: list[str] | None) -> dict[str, dict[str, str]]:
    """Return the expressions asked for, all or at least two, in their own order."""
    unknown = [name for name in names or [] if name not in EXPRESSIONS]
    if unknown:
        raise ValueError(f"expressions {unknown} are not among those that there are: {', '.join(EXPRESSIONS)}")
    if names is not None and len(set(names)) < 2:
        raise ValueError(f"expressions are {names}; name at least two of {', '.join(EXPRESSIONS)}")
    return {name: face for name, face in EXPRESSIONS.items() if names is None or name in names}


def bare_eyed(values: dict[str, str]) -> dict[str, str]:
    """Take off a person's sunglasses."""
    return {**values, "accessories": "none"} if values["accessories"] == "sunglasses" else values
