"""Configuration files that come with the package, found by name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).parent
FOLDERS = {
    "model": "configs/model",
    "data": "configs/data",
    "trainer": "configs/trainer",
    "extractor": "configs/extractor",
    "config": "experiments",
}
OPTIONS = {"-c": "config", "--config": "config", "--model": "model", "--data": "data", "--trainer": "trainer"}


def folder(kind: str) -> Path:
    """Locate the shipped files of one kind: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / FOLDERS[kind]
    return inside if inside.is_dir() else PACKAGE.parent / FOLDERS[kind]


def names(kind: str) -> list[str]:
    """List the shipped files of one kind (model, data, trainer, extractor or config) by name."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(value: str, kind: str) -> Path:
    """Turn a shipped file's name, or any path, into a path.

    Raises:
        FileNotFoundError: neither; the message lists the nearest names.
    """
    path = Path(value).expanduser()
    if path.is_file():
        return path
    shipped = folder(kind) / f"{value}.yaml"
    if shipped.is_file():
        return shipped
    known = names(kind)
    if kind == "config":
        known += [f"{model}_{data}" for model in names("model") for data in names("data")]
    near = get_close_matches(value, known, n=5) or known
    raise FileNotFoundError(f"{value!r} is no file and no shipped {kind}; nearest names: {', '.join(near)}")


def expand(args: list[str]) -> list[str]:
    """Replace shipped names in a command line by paths.

    Where no experiment is called ``<model>_<data>``, ``-c`` with that name means ``--model <model> --data <data>``.

    Raises:
        FileNotFoundError: a name after ``-c`` is unknown.
    """
    expanded: list[str] = []
    args = [part for arg in args for part in split_option(arg)]
    for option, value in zip(["", *args], args, strict=False):
        kind = OPTIONS.get(option)
        if kind is None or (kind != "config" and not re.fullmatch(r"[\w-]+", value)):
            expanded.append(value)  # neither a name nor a path, but a class or what it is made of
        elif kind == "config" and (pair := model_and_data(value)):
            expanded[-1:] = ["--model", str(find(pair[0], "model")), "--data", str(find(pair[1], "data"))]
        else:
            expanded.append(str(find(value, kind)))
    return expanded


def split_option(arg: str) -> list[str]:
    """Split ``--config=name``; other arguments stay whole."""
    option, equals, value = arg.partition("=")
    return [option, value] if equals and option in OPTIONS else [arg]


def model_and_data(value: str) -> tuple[str, str] | None:
    """Split ``<model>_<data>`` where both are shipped and no experiment or file has that name."""
    if value in names("config") or Path(value).is_file():
        return None
    pairs = ((value[:i], value[i + 1 :]) for i, letter in enumerate(value) if letter == "_")
    return next(((m, d) for m, d in pairs if m in names("model") and d in names("data")), None)
