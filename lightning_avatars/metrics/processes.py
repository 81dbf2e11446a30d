"""What the processes of a run do together when they score: share the work and add up what they found."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Number of this process and of all; 0 and 1 where there is only one."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def shares(count: int, size: int) -> Iterator[slice]:
    """Cut ``count`` things into pieces of ``size`` and yield this process's: every W-th piece."""
    rank, world = rank_and_world()
    for first in range(rank * size, count, world * size):
        yield slice(first, min(first + size, count))


def add_up(*tensors: Tensor) -> None:
    """Replace tensors by their sums over all processes, in place; they must be contiguous, as NCCL demands."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    if rank_and_world()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def total(tensor: Tensor, group: object = None) -> list[Tensor]:
    """Sum a metric's state over all processes, as torchmetrics asks for it, without gathering every process's copy."""
    summed = tensor.clone()
    dist.all_reduce(summed)
    return [summed]


def exact(device: torch.device) -> torch.device:
    """Where float64 sums are kept: Apple's GPUs have no such numbers."""
    return torch.device("cpu") if device.type == "mps" else device
