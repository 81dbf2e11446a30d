"""Processes that another one started: they end with it, and leave the exit status of the run to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial

LAUNCHER = "LIGHTNING_AVATARS_LAUNCHER"  # tells the processes that Lightning starts the number of the one that does
AGENT = "TORCHELASTIC_RUN_ID"  # torchrun's own mark


def live_with_launcher() -> None:
    """End this process when the one that launched it has ended, be it killed: Lightning's first, or torchrun.

    Else it would wait for it in vain: until an exchange with it fails, or for ever.
    """
    if AGENT in os.environ or launched():
        launcher = os.getppid() if AGENT in os.environ else int(os.environ[LAUNCHER])
        end_after(partial(wait_for, launcher))
    else:
        os.environ[LAUNCHER] = str(os.getpid())


def launched() -> bool:
    """Tell whether Lightning started this process from the run's first one, whose status is the run's."""
    first = os.environ.get(LAUNCHER, str(os.getpid()))
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and AGENT not in os.environ and first != str(os.getpid())


def end_after(wait: Callable[[], object]) -> None:
    """End this process, whatever it is at, once ``wait`` has come back: another one that it lives with has ended."""

    def follow() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def wait_for(launcher: int) -> None:
    """Wait until the parent of this process is another than the launcher."""
    while os.getppid() == launcher:
        time.sleep(1)


def status(number: int) -> int:
    """Exit status of a process that obeys a signal: 128 + its number, and 0 where the run's first process tells it.

    Lightning kills the first process, in the middle of what it does, when another ends with a status of its own.
    """
    return 0 if launched() else 128 + number
