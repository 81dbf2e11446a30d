"""Two processes that train together, started by a test."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp


def start_two(work: Callable[[int, int, Path], None], folder: Path) -> None:
    """Run ``work(rank, port, folder)`` in two processes; it begins with ``join``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload(["lightning_avatars.cli"])  # imported once, not by each process
    mp.start_processes(work, (port, folder), 2, start_method="forkserver")


def join(rank: int, port: int) -> None:
    """Say to this process what torchrun would."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
