"""How far a long piece of work is, for a person who waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from lightning_avatars.data.workers import progress
from lightning_avatars.metrics.processes import rank_and_world

T = TypeVar("T")


class Track(Protocol):
    """Yields items and shows how many are done."""

    def __call__(self, items: Sequence[T], description: str) -> Iterator[T]: ...


def on_screen(items: Sequence[T], description: str) -> Iterator[T]:
    """Show a bar on the first process's screen, where a person is looking."""
    yield from progress(items, description, len(items)) if rank_and_world()[0] == 0 else items
