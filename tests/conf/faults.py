"""Runs in processes of their own, to be killed and told to stop, and checkpoints compared bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lightning_avatars.checkpoints import read_checkpoint

SECONDS = 120  # after which a test gives up


def train(
    arguments: list[str],
    folder: Path,
    rank: int,
    environment: dict[str, str],
    prepare: Callable[[], object] | None = None,
) -> None:
    """Be the command line in a folder; what it says goes to ``said_<rank>.txt``."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.update(environment, OMP_NUM_THREADS="1")  # else Lightning sets as many as a node has for a process
    sys.stderr = Path(f"said_{rank}.txt").open("a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    os.dup2(sys.stderr.fileno(), 2)
    torch.set_num_threads(1)
    from lightning_avatars.cli import main

    if prepare is not None:
        prepare()
    main(arguments)


def torchrun(rank: int, world: int, nodes: int = 1) -> dict[str, str]:
    """Say to a process what torchrun would."""
    each = world // nodes
    return {
        "RANK": f"{rank}", "LOCAL_RANK": f"{rank % each}", "WORLD_SIZE": f"{world}", "LOCAL_WORLD_SIZE": f"{each}",
        "GROUP_RANK": f"{rank // each}", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


def slurm(rank: int, world: int) -> dict[str, str]:
    """Say to a process what srun would, on one node."""
    return {
        "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}", "SLURM_NTASKS": f"{world}", "SLURM_NODEID": "0",
        "SLURM_NTASKS_PER_NODE": f"{world}", "SLURM_NNODES": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "faces",
    }  # fmt: skip


def start(
    arguments: list[str],
    folder: Path,
    world: int = 1,
    prepare: Callable[[], object] | None = None,
    cluster: Callable[[int, int], dict[str, str]] = torchrun,
) -> list[BaseProcess]:
    """Start a run as torchrun would, in processes that have imported everything already and call ``prepare`` first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_avatars.cli"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    processes = []
    for rank in range(world):
        environment = meeting | cluster(rank, world) if world > 1 else {}
        processes.append(context.Process(target=train, args=(arguments, folder, rank, environment, prepare)))
        processes[-1].start()
    return processes


def wait_until(happened: Callable[[], object], processes: list[BaseProcess]) -> None:
    """Wait until something has happened in a run."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        assert all(process.is_alive() for process in processes), "the run ended before it happened"
        time.sleep(0.02)


def statuses(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for processes to end and return their exit statuses; None for those that hang. What is left is killed."""
    deadline = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    found = [process.exitcode for process in processes]
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return found


def killed_and_whole(arguments: list[str], folder: Path) -> list[Path]:
    """Train as two processes, one of which is killed before the run goes on, and unharmed; return the runs' folders."""
    folders = [folder / name for name in ("killed", "whole")]
    for one in folders:
        one.mkdir()
    processes = start(arguments, folders[0], 2)
    wait_until(lambda: saved(folders[0]), processes)
    processes[1].kill()
    assert statuses(processes)[1] == -signal.SIGKILL
    assert [statuses(start(arguments, one, 2)) for one in folders] == [[0, 0], [0, 0]]
    return folders


def saved(folder: Path) -> list[Path]:
    """List the checkpoints of the runs in a folder, the newest last."""
    return sorted(folder.glob("runs/*/*/checkpoints/images_*.ckpt"))


def checkpoints(folder: Path) -> list[str]:
    """Name the files in a run's folder of checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


def training_state(path: Path) -> dict[str, Any]:
    """Read what training depends on: weights, averages, clocks and optimizers."""
    saved = read_checkpoint(path)
    return {name: saved[name] for name in ("state_dict", "optimizer_states", "global_step")}


def equal(a: Any, b: Any) -> bool:
    """Tell whether two values of a checkpoint are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b
