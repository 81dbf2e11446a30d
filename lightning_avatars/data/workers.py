"""Work spread over processes, its results in order and its memory bounded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from lightning_avatars.launch import end_after

T = TypeVar("T")
R = TypeVar("R")

GUARD = 'put what it runs below `if __name__ == "__main__":`, for processes that prepare pictures import it'


def cores() -> int:
    """Count the processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """Lend a pool of fresh processes, for forking one that runs torch can hang; they end when their parent does.

    Raises:
        RuntimeError: A process has ended before its work was done.
    """
    try:
        with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), initializer=live_with_parent) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process that prepares pictures has ended too soon: in a script of your own, {GUARD}; elsewhere, look "
            "whether memory ran out"
        ) from error


def check_imported() -> None:
    """Raise where this process still imports the script of its parent, which waits for it and may hold a lock."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"pictures are prepared where a script is only imported: {GUARD}")


def live_with_parent() -> None:
    """Leave Ctrl-C to the parent, and die when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_after(parent.join)


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` of every item in order, never more than a few items per core ahead."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Show a progress bar on stderr while ``items`` pass, where a person is looking."""
    console = Console(stderr=True)
    yield from track(items, description, total, console=console, transient=True, disable=not console.is_terminal)
