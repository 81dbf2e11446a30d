"""The parts of curated avataaars and the one colour that stands for each. Free of torch, as ``artwork`` is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dicebear import Avatar
from pylunasvg import Document  # type: ignore[import-untyped]

from lightning_avatars.data.artwork import Drawing, Options, definition, draw, rasterise, snake_case, style

STYLE = "avataaars"
PARTS = [  # in the order in which they are painted
    "background",
    "skin",
    "clothes",
    "mouth",
    "nose",
    "eyes",
    "eyebrows",
    "hair",
    "hat",
    "facial_hair",
    "accessories",
]
BODY = "body"  # what the canvas itself shows: head, neck and shoulders
NATIVE = 280  # width of the artwork in its own units


class DrawnParts(NamedTuple):
    """An avatar with its parts: their numbers in ``PARTS``, uint8 1 H W, and their colours, uint8 3 H W."""

    avatar: Drawing
    mask: npt.NDArray[np.uint8]
    palette: npt.NDArray[np.uint8]


def draw_parts(options: Options, resolution: int, background: str) -> DrawnParts:
    """Draw an avatar whose options name every colour, with its parts where they can be seen."""
    avatar = draw(STYLE, options, resolution, background)
    mask = np.zeros((1, resolution, resolution), np.uint8)
    palette = np.broadcast_to(from_hex(background)[:, None, None], avatar.image.shape).copy()
    for component, variant in painted(avatar.variants):
        shape = covered(component, variant, resolution)
        colour = colour_name(component, variant)
        mask[0, shape] = PARTS.index(snake_case(colour or component))
        filled = options[f"{colour}Color"] if colour else most_frequent(component, variant, str(options["skinColor"]))
        palette[:, shape] = from_hex(str(filled))[:, None]
    return DrawnParts(avatar, mask, palette)


def draw_many_parts(options: list[Options], resolution: int, background: str) -> list[DrawnParts]:
    """Draw several avatars with their parts: what one process is asked for at a time."""
    return [draw_parts(chosen, resolution, background) for chosen in options]


def painted(variants: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the components that an avatar shows and their variants, in the order in which they are painted."""
    yield BODY, ""
    for element in definition(STYLE)["canvas"]["elements"]:
        if element["type"] == "component" and element["name"] in variants:
            yield element["name"], variants[element["name"]]


def from_hex(colour: str) -> npt.NDArray[np.uint8]:
    """Read ``#rrggbb``: uint8, 3."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def document(components: tuple[str, ...], options: Options) -> Document:
    """Compose only some components of an avatar; ``BODY`` is one of them."""
    drawing = Avatar(style(STYLE), {"seed": "", **options}).to_json()["svg"]
    definitions, end, canvas = drawing.rpartition("</defs>")
    return Document.loadFromData(
        definitions + end + "".join(t for t in re.findall("<[^>]+>", canvas) if kept(t, components))
    )


def kept(tag: str, components: tuple[str, ...]) -> bool:
    """Tell whether a tag of the canvas paints one of some components, or nothing by itself."""
    if use := re.search(r'href="#(\w+)-', tag):
        return use[1] in components
    return BODY in components or not tag.startswith("<path")


def shown(component: str, variant: str) -> Options:
    """DiceBear's options that show a variant for certain."""
    return {} if component == BODY else {f"{component}Variant": variant, f"{component}Probability": 100}


@cache
def covered(component: str, variant: str, resolution: int) -> npt.NDArray[np.bool_]:
    """Tell where a component is at least half as opaque as it gets: H W; shadows that it casts are not part of it."""
    bitmap = document((component,), shown(component, variant)).renderToBitmap(resolution, resolution, 0)
    opacity = np.array(bitmap)[..., 3].astype(np.int64)
    return np.asarray(2 * opacity > opacity.max())


@cache
def colour_name(component: str, variant: str) -> str | None:
    """Name the colour that a person chooses for a component; None where the artwork fixes its colours."""
    if component == BODY:
        return "skin"
    return next(colours(definition(STYLE)["components"][component]["variants"][variant]["elements"]), None)


def colours(elements: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the names of the colours that some elements of a definition are filled with."""
    for element in elements:
        fill = element.get("attributes", {}).get("fill")
        if isinstance(fill, dict):
            yield fill["name"]
        yield from colours(element.get("children", []))


@cache
def most_frequent(component: str, variant: str, skin: str) -> str:
    """Find the colour, ``#rrggbb``, that most of a component has on a skin, whatever the resolution."""
    image = rasterise(document((BODY, component), {**shown(component, variant), "skinColor": skin}), NATIVE, "#ffffff")
    red, green, blue = image[:, covered(component, variant, NATIVE)].astype(np.int64)
    seen, counts = np.unique((red << 16) + (green << 8) + blue, return_counts=True)
    return f"#{int(seen[counts.argmax()]):06x}"
