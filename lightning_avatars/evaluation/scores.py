"""A score with what it takes to trust it, and the file that keeps scores.

``results.json``, schema 2: ``results`` lists one entry for each stage, number of images seen and set of images that was
scored. An entry has

- ``stage`` (``val``, ``test`` or ``evaluate``), ``images_seen`` and ``training``: seconds, validations and what
  was lost in an interruption aside, and images per second;
- ``set``: what was scored: ``samples``, ``reconstruction``, ``a_to_b``, …, or ``recognition``, ``segmentation``;
- ``scores``: name -> ``value``; ``interval``, 95 %, or null; ``floor``, what as many real pictures that were never
  trained on score, or null; ``extractor``, a key of the passport's ``extractors``, or null. A value that is not a
  number (a diverged generator) is null;
- ``accuracy``: label group -> share of images that show what was asked for; ``others than <group>`` -> share of the
  other groups that a change has left as they were;
- ``seconds``, and ``passport``: see ``evaluation.passport``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_avatars.disk import put_in_place
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.intervals import jackknife

SCHEMA = 2
ENTRY = {"stage", "images_seen", "set", "scores", "passport"}
PAIRS = 10_000  # images that are compared pair by pair, at most
OF_ALL = ("fd", "class_score")  # kinds of scores that are told from all images, whatever their number
LEAST = {"fd": 0.0, "class_score": 1.0} | dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0)
MOST = dict.fromkeys(("precision", "recall", "coverage"), 1.0)
FEWEST = 10  # images of which a score can be told


@dataclass(frozen=True)
class Score:
    """One number.

    Args:
        value: The score; nan where there is none.
        interval: 95 % confidence interval, the reference held fixed.
        floor: What as many real pictures score.
        extractor: Name of the network whose features it was taken in.
    """

    value: float
    interval: tuple[float, float] | None = None
    floor: float | None = None
    extractor: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return values for JSON, which has no nan."""
        ends = self.interval if self.interval and all(map(math.isfinite, (self.value, *self.interval))) else None
        value, floor = (x if x is not None and math.isfinite(x) else None for x in (self.value, self.floor))
        return {"value": value, "interval": ends and list(ends), "floor": floor, "extractor": self.extractor}


@dataclass(frozen=True)
class Result:
    """What was found of one set of images.

    Args:
        set: What was scored, such as ``samples``.
        scores: Scores by name, the number of images included.
        accuracy: Label group -> share of images that show what was asked for.
        seconds: How long it took.
        passport: All that the scores depend on.
    """

    set: str
    scores: Mapping[str, Score]
    accuracy: Mapping[str, float]
    seconds: float
    passport: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return values for JSON."""
        return {
            "set": self.set,
            "scores": {name: score.plain() for name, score in self.scores.items()},
            "accuracy": dict(self.accuracy),
            "seconds": round(self.seconds, 2),
            "passport": dict(self.passport),
        }


def named(
    estimates: Mapping[str, tuple[Tensor, Tensor]],
    extractor: Extractor,
    count: int,
    floor: Mapping[str, float],
    diverged: bool,
) -> dict[str, Score]:
    """Give scores in an extractor's features their names, intervals (cut to what is possible) and floors.

    Args:
        estimates: Kind -> value, and the values without each block.
        extractor: The extractor.
        count: Images that were scored.
        floor: Kind -> what as many real pictures score.
        diverged: Whether some images were not finite: then there is no score.
    """
    scores = {}
    for kind, (value, less) in estimates.items():
        compared = count if kind in OF_ALL else min(count, PAIRS)
        low, high = (
            min(max(end, LEAST.get(kind, -math.inf)), MOST.get(kind, math.inf)) for end in jackknife(less, value)
        )
        scores[f"{extractor.score(kind)}_{size_name(compared)}"] = Score(
            math.nan if diverged else float(value), (low, high), floor.get(kind), extractor.name
        )
    return scores


def size_name(count: int) -> str:
    """Write a number of images as it stands in the names of scores: ``5k``, or ``4999``."""
    return f"{count // 1000}k" if count % 1000 == 0 else str(count)


def check_enough(count: int, what: str) -> None:
    """Raise where there are too few images for any score."""
    if count < FEWEST:
        raise ValueError(f"scores need at least {FEWEST} images on either side, but only {count} {what}: give more")


def check_shown(count: int, what: str) -> None:
    """Raise where too few held-out pictures are shown to a module for any score."""
    check_enough(
        count,
        f"{what} are shown (another data.dataset.split has more; fit and test score nothing by --quality.enabled false "
        "--reconstruction.enabled false)",
    )


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a ``results.json``.

    Raises:
        ValueError: It is no such file, or of another schema.
    """
    try:
        contents = json.loads(path.read_text())
        schema, results = contents["schema"], contents["results"]
        whole = schema != SCHEMA or all(entry.keys() >= ENTRY for entry in results)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no results: give a results.json of a run, or what evaluate --json wrote"
        ) from error
    if not (whole and isinstance(results, list)):
        raise ValueError(f"{path} holds no results that have {', '.join(sorted(ENTRY))}: give a results.json of a run")
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}: score the checkpoint again")
    return list(results)


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Write entries in one step, so that no half-written file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"schema": SCHEMA, "results": results}, indent=2, allow_nan=False) + "\n")
    put_in_place(temporary, path)


LESS_IS_BETTER = ("fid", "fd_", "kid", "kd_", "cmmd", "copied", "l1", "mse", "lpips", "nll_", "bpd_", "ppl_")


def direction(name: str) -> int:
    """Tell whether more of a score is better, 1, or less, -1."""
    return -1 if name.startswith(LESS_IS_BETTER) else 1
