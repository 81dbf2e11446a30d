"""DiceBear artwork as pixels. Free of torch, so that the processes that draw start in a moment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dicebear import Avatar, Style
from pylunasvg import Document  # type: ignore[import-untyped]

Options = dict[str, str | int]

DIGEST_RESOLUTION = 64  # equal avatars are found at one size, so that they stay in one split at every resolution


class Drawing(NamedTuple):
    """One avatar: its pixels, uint8 3 H W, a hash of them, and the variant of each component that it shows."""

    image: npt.NDArray[np.uint8]
    digest: bytes
    variants: dict[str, str]


def versions() -> dict[str, str]:
    """Versions of everything that decides what an avatar looks like."""
    return {package: version(package) for package in ("dicebear-core", "dicebear-styles", "pylunasvg")}


@cache
def style_names() -> list[str]:
    """Names of all styles that came with ``dicebear-styles``."""
    folder = files("dicebear_styles")
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def check_style(name: str) -> None:
    """Raise a ``ValueError`` that lists the nearest names unless ``name`` is a style."""
    if name not in style_names():
        near = get_close_matches(name, style_names(), 3, 0.4) or style_names()
        raise ValueError(f"style {name!r} is not among the artwork of dicebear-styles; try {', '.join(near)}")


@cache
def definition(name: str) -> dict[str, Any]:
    """Read a style's definition: its canvas, components, their variants and its colours."""
    text = files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")
    return dict(json.loads(text))


@cache
def style(name: str) -> Style:
    """Make a style ready for drawing, once per process."""
    return Style(definition(name))


def snake_case(name: str) -> str:
    """Write ``facialHair`` as ``facial_hair``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def variant_groups(name: str) -> dict[str, list[str]]:
    """List the variants of each component of a style that differs between avatars; ``none`` where it may be absent."""
    components = definition(name)["components"]
    sources = {key: components[part.get("extends", key)] for key, part in components.items()}
    present = always_present(definition(name)["canvas"]["elements"], sources)
    groups = {}
    for key, source in sources.items():
        drawn = [variant for variant, data in source["variants"].items() if data.get("weight", 1) > 0]
        if key not in present and "none" not in drawn:
            drawn.insert(0, "none")
        if len(drawn) > 1:
            groups[key] = drawn
    return groups


def always_present(canvas: list[dict[str, Any]], components: dict[str, Any]) -> set[str]:
    """Find the components that every avatar shows: on the canvas, or in all variants of one that every avatar shows."""
    certain: set[str] = set()
    found = set(references(canvas))
    while found:
        name = found.pop()
        if components[name].get("probability", 100) == 100:
            certain.add(name)
            variants = [set(references(data["elements"])) for data in components[name]["variants"].values()]
            found |= set.intersection(*variants) - certain
    return certain


def references(elements: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the names of the components that some elements of a definition use."""
    for element in elements:
        if element["type"] == "component":
            yield element["name"]
        yield from references(element.get("children", []))


def rasterise(document: Document, resolution: int, background: str) -> npt.NDArray[np.uint8]:
    """Paint an SVG document, antialiased, over a colour such as ``#ffffff``: uint8, 3 H W."""
    bitmap = document.renderToBitmap(resolution, resolution, int(background[1:] + "ff", 16))
    bitmap.convertToRGBA()
    return np.ascontiguousarray(np.asarray(bitmap)[..., :3].transpose(2, 0, 1))


def draw(name: str, options: Options, resolution: int, background: str) -> Drawing:
    """Draw one avatar of a style with DiceBear's options."""
    avatar = Avatar(style(name), options).to_json()
    document = Document.loadFromData(avatar["svg"])
    if document is None:
        raise ValueError(f"lunasvg could not read the drawing of style {name!r} with options {options}")
    image = rasterise(document, resolution, background)
    source = image if resolution == DIGEST_RESOLUTION else rasterise(document, DIGEST_RESOLUTION, background)
    variants = {key[:-7]: value for key, value in avatar["options"].items() if key.endswith("Variant")}
    return Drawing(image, blake2b(source.tobytes(), digest_size=16).digest(), variants)


def draw_many(orders: list[tuple[str, Options]], resolution: int, background: str) -> list[Drawing]:
    """Draw several avatars, each of a style with options: what one process is asked for at a time."""
    return [draw(name, options, resolution, background) for name, options in orders]
