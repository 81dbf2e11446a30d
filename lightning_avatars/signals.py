"""Signals that ask a run to end: noted when they come, obeyed between two batches or in the middle of a validation."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning_avatars.launch import status

NOTED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))  # Windows has one


class Signals:
    """Notes SIGTERM and SIGUSR1 while it is installed, in place of what handled them before.

    Lightning's own handlers save in the middle of a batch, or broadcast while other processes are at something else;
    a checkpoint from there is not the same run, and two processes hang.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once = False
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        """Note signals from now on; other threads than the main one can't."""
        if threading.current_thread() is threading.main_thread() and not self.before:
            self.before = {number: signal.signal(number, self.note) for number in NOTED}

    def remove(self) -> None:
        """Put back what handled the signals before."""
        self.at_once = False
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: one that Python did not set
        self.before = {}

    def note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.at_once:
            self.at_once = False
            raise SystemExit(status(number))

    def leave_at_once(self) -> None:
        """Obey signals when they come, and one that has come already, for what is done now can be done again."""
        self.at_once = bool(self.before)
        if self.received is not None:
            self.note(self.received, None)
