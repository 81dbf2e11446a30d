"""Scores of two runs side by side, where they can be compared at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_avatars.evaluation.passport import difference
from lightning_avatars.evaluation.scores import direction, read_results


def compare(first: Path, second: Path, stage: str | None = None) -> None:
    """Compare the latest scores of two results.json files; refuse what can't be compared.

    Args:
        first: A ``results.json`` of a run, or a file that ``evaluate --json`` wrote.
        second: Another.
        stage: ``val``, ``test`` or ``evaluate``; by default the latest scores, whatever the stage.

    Raises:
        ValueError: the files have no scores in common, or their passports differ in a field that scores depend on.
    """
    ours, theirs = latest(first, stage), latest(second, stage)
    common = [name for name in ours if name in theirs]
    pairs = {name: [s for s in ours[name]["scores"] if s in theirs[name]["scores"]] for name in common}
    if not any(pairs.values()):
        raise ValueError(
            f"{first} and {second} have no scores in common: {listed(ours)} against {listed(theirs)}. The number of "
            "images is part of a score's name; score both with the same number and the same extractors"
        )
    for name, shared in pairs.items():
        if shared:
            check(ours[name], theirs[name], shared, first, second)
    console = Console()
    for which, path in (("first", first), ("second", second)):
        console.print(f"{which}: {path}", soft_wrap=True, markup=False)
    for name, shared in pairs.items():
        if shared:
            console.print(side_by_side(name, ours[name], theirs[name], shared))
    console.print("Intervals are 95 %, the reference held fixed; ~ where they leave the order open.")


def latest(path: Path, stage: str | None) -> dict[str, dict[str, Any]]:
    """Read the last entry of each set of images that was scored."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: give a results.json of a run, or what evaluate --json wrote")
    entries = [entry for entry in read_results(path) if stage in (None, entry["stage"])]
    if not entries:
        raise ValueError(f"{path} has no scores" + (f" of the stage {stage!r}" if stage else ""))
    return {entry["set"]: entry for entry in entries}


def listed(entries: dict[str, dict[str, Any]]) -> str:
    """Write out the names of scores, set by set."""
    return "; ".join(f"{name}: {', '.join(entry['scores']) or 'none'}" for name, entry in entries.items())


def check(ours: dict[str, Any], theirs: dict[str, Any], shared: list[str], first: Path, second: Path) -> None:
    """Raise where a score that both have can't be compared."""
    for name in shared:
        found = difference(ours["scores"][name]["extractor"], ours["passport"], theirs["passport"])
        if found:
            references = " and ".join(entry["passport"]["reference"]["name"] for entry in (ours, theirs))
            hint = f" (they were compared with {references})" if found.startswith("reference") else ""
            raise ValueError(f"{name} of {first} and of {second} can't be compared: in their passports {found}{hint}")


def side_by_side(name: str, ours: dict[str, Any], theirs: dict[str, Any], shared: list[str]) -> Table:
    """Make the table of one set of images."""
    table = Table("score", "first", "second", "better", "floor", title=escape(name))
    table.add_row("weights", *(entry["passport"].get("weights") or "" for entry in (ours, theirs)))
    seen = ("" if entry["images_seen"] is None else f"{entry['images_seen']:,}" for entry in (ours, theirs))
    table.add_row("images seen", *seen, end_section=True)
    for score in shared:
        a, b = ours["scores"][score], theirs["scores"][score]
        floor = "" if a["floor"] is None else f"{a['floor']:.4g}"
        table.add_row(score, written(a), written(b), better(score, a, b), floor)
    return table


def written(score: dict[str, Any]) -> str:
    """Write a score with its interval."""
    if score["value"] is None:
        return "nan"
    interval = score["interval"]
    return f"{score['value']:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")


def better(name: str, a: dict[str, Any], b: dict[str, Any]) -> str:
    """Say which of two scores is better: ``first``, ``second``, or ``~`` where the intervals leave it open."""
    if a["value"] is None or b["value"] is None:
        return "" if a["value"] is b["value"] else "second" if a["value"] is None else "first"
    gap = (b["value"] - a["value"]) * direction(name)
    halves = [(s["interval"][1] - s["interval"][0]) / 2 if s["interval"] else 0.0 for s in (a, b)]
    if abs(gap) <= (halves[0] ** 2 + halves[1] ** 2) ** 0.5:
        return "~"
    return "second" if gap > 0 else "first"
