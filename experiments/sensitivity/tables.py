"""The tables of the page, from the results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.sensitivity.distortions import DISTORTIONS, levels


def parts(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a title for each part of the results."""
    for data, found in sorted(results.items()):
        for name, part in sorted(found.items()):
            passport = part["passport"]
            yield f"{data}, {name}: {passport['images']} pictures, {passport['references']} references", part


def summary(results: dict[str, Any]) -> str:
    """Write what each metric sees."""
    lines = []
    for title, part in parts(results):
        passport, heads = part["passport"], ["metric", *DISTORTIONS]
        kept = ", ".join(f"{found:.0%}" for found in passport["pictures_in_kept_modes"].values())
        lines += [
            f"### {title}\n",
            f"Seed {passport['seed']}; {passport['hardware']}; the modes that are kept hold {kept} of the pictures.\n",
            f"| {' | '.join(heads)} |",
            "|---" * len(heads) + "|",
        ]
        for kind, found in part["rows"].items():
            cells = [found[name]["verdict"] if name in found else "" for name in DISTORTIONS]
            lines.append(f"| `{kind}` | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def details(results: dict[str, Any]) -> str:
    """Write all values."""
    lines = []
    for title, part in parts(results):
        lines += [
            f"### {title}\n",
            "| metric | distortion | levels | values | interval at none | verdict |",
            "|---" * 6 + "|",
        ]
        for kind, found in part["rows"].items():
            for name, row in found.items():
                known = [" / ".join(levels(name)), " / ".join(map(number, row["values"]))]
                ends = " … ".join(map(number, row["interval"]))
                lines.append(f"| `{kind}` | {name} | {known[0]} | {known[1]} | {ends} | {row['verdict']} |")
        lines.append("")
    return "\n".join(lines)


def number(value: float) -> str:
    """Write three digits."""
    return f"{value:.3g}"
