"""Values that change while a run sees images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any


class Schedule(ABC):
    """A number as a function of the images seen."""

    @abstractmethod
    def __call__(self, images_seen: int) -> float:
        """Return the value after ``images_seen`` images."""


class Constant(Schedule):
    """The same value always.

    Args:
        value: The value.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, images_seen: int) -> float:
        return self.value


class Linear(Schedule):
    """A straight line from ``start`` to ``end``, flat outside ``[first, last]``.

    Args:
        start: Value up to ``first``.
        end: Value from ``last`` on.
        last: Images seen when ``end`` is reached.
        first: Images seen when the value begins to move.
    """

    def __init__(self, start: float, end: float, last: int, first: int = 0) -> None:
        if last <= first:
            raise ValueError(f"a schedule must end after it begins, got first={first} and last={last}")
        self.start, self.end, self.first, self.last = start, end, first, last

    def progress(self, images_seen: int) -> float:
        return min(max((images_seen - self.first) / (self.last - self.first), 0.0), 1.0)

    def __call__(self, images_seen: int) -> float:
        return self.start + (self.end - self.start) * self.progress(images_seen)


class Cosine(Linear):
    """Half a cosine from ``start`` to ``end``, flat outside ``[first, last]`` (R3GAN, Sec. 4)."""

    def __call__(self, images_seen: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * self.progress(images_seen))) / 2


class Steps(Schedule):
    """Values that jump.

    Args:
        values: Images seen -> the value from there on; the smallest key's value holds before it too.
    """

    def __init__(self, values: dict[int, float]) -> None:
        if not values:
            raise ValueError("Steps needs at least one value, such as {0: 0.1, 100000: 0.01}")
        self.values = dict(sorted(values.items()))

    def __call__(self, images_seen: int) -> float:
        reached = [value for images, value in self.values.items() if images <= images_seen]
        return reached[-1] if reached else next(iter(self.values.values()))


class Growing(Schedule):
    """A level that rises by ones: each is faded in, then kept (Karras et al. 2018, Sec. A.1).

    It rises without end; networks stop at the level that is their resolution.

    Args:
        kept: Images for which the first level, and each that was faded in, is kept. The paper has 800,000.
        faded: Images over which a level is faded in. The paper has 800,000.
        first: Level at the start: 0 for 4 x 4, 1 for 8 x 8.
    """

    def __init__(self, kept: int = 800_000, faded: int = 800_000, first: int = 0) -> None:
        if kept < 0 or faded < 1 or first < 0:
            raise ValueError(
                f"a level is kept for 0 images or more and faded in over at least 1, and the first is at least 0; got "
                f"kept={kept}, faded={faded}, first={first}"
            )
        self.kept, self.faded, self.first = kept, faded, first

    def __call__(self, images_seen: int) -> float:
        whole, rest = divmod(max(images_seen - self.kept, 0), self.kept + self.faded)
        return self.first + whole + min(rest / self.faded, 1.0)


def value_at(value: float | Schedule, images_seen: int) -> float:
    """Evaluate a plain number or a schedule."""
    return value(images_seen) if isinstance(value, Schedule) else value


def crossed(every: int, before: int, seen: int) -> bool:
    """Tell whether a multiple of ``every`` images lies after ``before`` and up to ``seen``; never where that is 0."""
    return every > 0 and seen // every != before // every


def set_option(group: dict[str, Any], option: str, value: float, key: str) -> None:
    """Set an option of an optimizer's group; ``beta1`` and ``beta2`` are Adam's."""
    if option in ("beta1", "beta2") and "betas" in group:
        betas = list(group["betas"])
        betas[int(option[-1]) - 1] = value
        group["betas"] = tuple(betas)
    elif option in group:
        group[option] = value
    else:
        raise ValueError(f"optimizer_schedules names {key!r}, but that optimizer has {sorted(set(group) - {'params'})}")
