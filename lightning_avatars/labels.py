"""Labels by name: which columns make a group, what follows from it, ``hair=curly,accessories=round`` as numbers."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

NONE = "none"  # in place of labels


def groups(names: list[str]) -> dict[str, slice]:
    """Find the columns of each group; a plain name such as ``Smiling`` is a group of its own.

    Raises:
        ValueError: A group's columns do not lie side by side.
    """
    found: dict[str, slice] = {}
    for column, name in enumerate(names):
        group = name.partition("=")[0]
        if group in found and found[group].stop != column:
            raise ValueError(f"the columns of label group {group!r} must lie side by side, got {', '.join(names)}")
        found[group] = slice(found[group].start if group in found else column, column + 1)
    return found


def one_hot_groups(names: list[str]) -> set[str]:
    """Names of the groups of which exactly one column is 1."""
    return {name.partition("=")[0] for name in names if "=" in name}


def parse(text: str, names: list[str]) -> dict[str, list[float]]:
    """Read an assignment of some groups.

    Args:
        text: ``group=value`` of one-hot groups, and ``Smiling``, ``Smiling=1`` or ``Smiling=0`` of plain names, between
            commas.
        names: The columns of the labels.

    Returns:
        The columns of each group that is named.

    Raises:
        ValueError: A name that there is not, with the nearest ones, or a group named twice.
    """
    columns, chosen = groups(names), {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        group, _, value = part.partition("=")
        if part in names:
            values = [float(name == part) for name in names[columns[group]]]
        elif group in names and value in ("0", "1"):
            values = [float(value)]
        else:
            raise ValueError(f"no label is called {part!r}; {suggestion(group, part, names)}")
        if group in chosen:
            raise ValueError(f"label group {group!r} is named twice in {text!r}")
        chosen[group] = values
    return chosen


def suggestion(group: str, part: str, names: list[str]) -> str:
    """Say what could have been meant by ``part``, whose group is ``group``."""
    if group in names:
        return f"{group} is 0 or 1"
    columns = groups(names)
    if group in columns:
        return f"{group} is one of {', '.join(name.partition('=')[2] for name in names[columns[group]])}"
    near = get_close_matches(part, names, 3, 0.5) or get_close_matches(group, columns, 3, 0.4)
    return f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(columns) or 'none'}"


def assign(rows: Tensor, text: str, names: list[str]) -> Tensor:
    """Set the groups that ``text`` names in rows of labels drawn from data, N L, and leave the others."""
    rows, columns = rows.clone(), groups(names)
    for group, values in parse(text, names).items():
        rows[:, columns[group]] = rows.new_tensor(values)
    return rows


def asked_for(rows: Tensor, text: str | None, names: list[str]) -> Tensor:
    """Set rows of labels drawn from data, N L, as ``assign`` does; leave them without a text, zeros for ``none``."""
    if text == NONE:
        return torch.zeros_like(rows)
    return assign(rows, text, names) if text else rows


def check_asked(text: str | None, conditional: bool, label_dropout: float, checkpoint: Path) -> None:
    """Raise a ValueError where a checkpoint's model can't obey labels that are asked for, or draw without any."""
    if text is not None and not conditional:
        raise ValueError(f"{checkpoint} was trained without labels, so that it can't obey {text!r}")
    if text == NONE and not label_dropout:
        raise ValueError(
            f"{checkpoint} was given labels with every picture (label_dropout: 0): it can't draw without any"
        )


def values_in(group: str, names: list[str]) -> int:
    """Count the values of a group; a plain label is there or not."""
    columns = groups(names)[group]
    return columns.stop - columns.start if group in one_hot_groups(names) else 2


def values(logits: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Number the value of each group that logits name, N each; of a plain label 1 above 0, else 0."""
    exclusive = one_hot_groups(names)
    return {
        group: logits[:, columns].argmax(1) if group in exclusive else (logits[:, columns.start] > 0).long()
        for group, columns in groups(names).items()
    }


def seen_values(group: str, rows: Tensor, names: list[str]) -> Tensor:
    """Find the values of a group that occur in label rows, R L, ascending; all of them where there are no rows."""
    return torch.unique(values(rows - 0.5, names)[group]) if len(rows) else torch.arange(values_in(group, names))


def functions_of(group: str, rows: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Find the groups that are functions of one in label rows, R L: group -> its columns for each value of that one.

    Of values that do not occur, the columns are zeros.
    """
    seen = seen_values(group, rows, names)
    if not len(rows) or len(seen) < 2:
        return {}
    value, found = values(rows - 0.5, names)[group], {}
    parts = [rows[value == v] for v in seen.tolist()]
    for other, columns in groups(names).items():
        firsts = torch.stack([part[0, columns] for part in parts])
        fixed = all(bool((part[:, columns] == first).all()) for part, first in zip(parts, firsts, strict=True))
        if other != group and fixed and len(torch.unique(firsts, dim=0)) > 1:
            found[other] = rows.new_zeros(values_in(group, names), firsts.shape[1]).index_copy(0, seen, firsts)
    return found


def following(labels: Tensor, group: str, rows: Tensor, names: list[str]) -> Tensor:
    """Set the groups that are a function of one group in training pictures, whose label rows are given."""
    value, columns = values(labels - 0.5, names)[group], groups(names)
    for other, by_value in functions_of(group, rows.cpu(), names).items():
        labels[:, columns[other]] = by_value.to(labels)[value]
    return labels


def leading(chosen: list[str], rows: Tensor, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Find which of some groups can change and are no functions of others of them: group -> its own functions."""
    seen = {group: len(seen_values(group, rows, names)) for group in chosen}
    found: dict[str, dict[str, Tensor]] = {}
    for group in sorted(chosen, key=lambda group: -seen[group]):  # a function has no more values than what it is of
        if seen[group] > 1 and not any(group in functions for functions in found.values()):
            found[group] = functions_of(group, rows, names)
    return {group: found[group] for group in chosen if group in found}
