"""Attribute tables: a CSV whose first column names the pictures, or CelebA's text format."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

MOST_VALUES = 1000


@dataclass(frozen=True)
class Table:
    """Labels of pictures.

    Args:
        label_names: A column's name where it holds numbers, ``column=value`` for each value of a column of words.
        rows: The row of each picture by name.
        values: float, rows x labels.
    """

    label_names: list[str]
    rows: dict[str, int]
    values: npt.NDArray[np.float32]


def read_table(path: Path, columns: list[str] | None = None) -> Table:
    """Read ``columns`` of a table, all by default, as labels."""
    header, lines = read_cells(path)
    wanted = header if columns is None else columns
    for column in wanted:
        if column not in header:
            near = get_close_matches(column, header, 3) or header[:10]
            raise ValueError(f"{path} has no column {column!r}; did you mean {', '.join(near)}?")
    rows: dict[str, int] = {}
    for number, (name, *_) in enumerate(lines):
        if rows.setdefault(name, number) != number:
            raise ValueError(f"{path} has more than one row for {name!r}; keep one")
    labels: dict[str, npt.NDArray[np.float32]] = {}
    for column in wanted:
        place = header.index(column) + 1
        labels |= encode(path, column, [line[place] for line in lines], lines)
    return Table(
        list(labels), rows, np.stack([*labels.values()], 1) if labels else np.zeros((len(lines), 0), np.float32)
    )


def read_header(path: Path) -> list[str]:
    """Read the names of the columns in CelebA's format, without the many rows below."""
    if not path.exists():
        raise FileNotFoundError(f"no attribute table at {path}; put it there or correct the path")
    with path.open(encoding="utf-8") as file:
        file.readline()
        return file.readline().split()


def read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the columns' names, the first one aside, and all rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            if first.strip().isdigit():
                header, lines = file.readline().split(), [interned(line.split()) for line in file]
            else:
                header, *lines = (interned(line) for line in csv.reader([first, *file]))
                header = header[1:]
    except FileNotFoundError:
        raise FileNotFoundError(f"no attribute table at {path}; give the path of a CSV or of CelebA's format") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{path} is no attribute table: {error}; save it as CSV in UTF-8 with a header") from error
    lines = [line for line in lines if line]
    if first.strip().isdigit() and len(lines) != int(first):
        raise ValueError(f"{path} announces {int(first)} rows and has {len(lines)}; it may be cut off, get it again")
    if not header or len(set(header)) != len(header):
        raise ValueError(f"{path} needs a header: the pictures' column, then different names, between commas")
    for line in lines:
        if len(line) != len(header) + 1:
            raise ValueError(f"{path}: the row of {line[0]!r} has {len(line)} cells, the header {len(header) + 1}")
    return header, lines


def interned(cells: list[str]) -> list[str]:
    """Strip cells and let equal ones share their memory."""
    return [sys.intern(cell.strip()) for cell in cells]


def encode(path: Path, column: str, cells: list[str], lines: list[list[str]]) -> dict[str, npt.NDArray[np.float32]]:
    """Turn a column into one label of numbers, -1 and 1 becoming 0 and 1, or into one label per word."""
    if "" in cells:
        raise ValueError(f"{path}: the row of {lines[cells.index('')][0]!r} has no {column!r}; fill it in")
    try:
        numbers = np.array(cells, np.float64)
    except ValueError:
        words = sorted(set(cells))
        if len(words) > MOST_VALUES:
            raise ValueError(
                f"{path}: column {column!r} has {len(words)} different words, too many for labels (at most "
                f"{MOST_VALUES}); choose other columns"
            ) from None
        column_of_words = np.array(cells)
        return {f"{column}={word}": (column_of_words == word).astype(np.float32) for word in words}
    if not np.isfinite(numbers).all():
        name = lines[int(np.argmin(np.isfinite(numbers)))][0]
        raise ValueError(f"{path}: {column!r} of {name!r} is not a finite number; correct it")
    signs = bool(np.isin(numbers, (-1, 1)).all()) and bool((numbers == -1).any())
    return {column: ((numbers + 1) / 2 if signs else numbers).astype(np.float32)}
