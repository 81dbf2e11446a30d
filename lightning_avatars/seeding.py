"""Every random draw of the project, as a pure function of what it belongs to."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def derive(seed: int, stream: str, *counters: int) -> int:
    """Mix a seed, the name of a stream and counters into one 63-bit seed."""
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), *counters]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def reseed(seed: int, rank: int, images_seen: int, device: torch.device) -> None:
    """Seed what networks on ``device`` draw inside themselves (dropout, noise) for the coming batch.

    ``torch.manual_seed`` would ask every kind of device, there or not: milliseconds, and a list that grows.
    """
    number = derive(seed, "network", rank, images_seen)
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run with the given seed and put the generators back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, "evaluation"))
        yield


def uniform_at(seed: int, stream: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Draw one number in [0, 1) for each position, independently of every other position.

    A counter-based generator: the SplitMix64 finaliser of Steele et al. 2014 over ``key + position * golden``.
    """
    x = np.uint64(derive(seed, stream)) + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


class Draws:
    """Random numbers for some images of one global batch.

    Numbers are made for the whole batch from ``(seed, stream, images_seen)`` and cut to ``[start, stop)``, so that a
    process or a chunk sees what it would have seen had one process handled the batch in one piece.

    Args:
        seed: Seed of the run.
        images_seen: Images seen by all processes before this batch.
        total: Images in the global batch.
        start: First image of this slice.
        stop: One past the last image of this slice.
        device: Where the numbers are made; another kind of device gives other numbers.
    """

    def __init__(self, seed: int, images_seen: int, total: int, start: int, stop: int, device: torch.device) -> None:
        self.seed, self.images_seen, self.total = seed, images_seen, total
        self.start, self.stop, self.device = start, stop, device

    def __len__(self) -> int:
        return self.stop - self.start

    def chunk(self, start: int, stop: int) -> Draws:
        """Cut ``[start, stop)`` out of this slice."""
        return Draws(
            self.seed, self.images_seen, self.total, self.start + start, self.start + min(stop, len(self)), self.device
        )

    def take(self, stream: str, make: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Call ``make(total, generator)`` for the global batch and keep this slice of its rows."""
        generator = torch.Generator(self.device).manual_seed(derive(self.seed, stream, self.images_seen))
        return make(self.total, generator)[self.start : self.stop]

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal numbers, N x shape."""
        return self.take(stream, lambda n, g: torch.randn(n, *shape, generator=g, device=self.device))

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), N x shape."""
        return self.take(stream, lambda n, g: torch.rand(n, *shape, generator=g, device=self.device))


class SeedNoise:
    """Random numbers for rows that have a seed each: the same in any batch and on any machine.

    What is asked for first is drawn first, whatever the stream's name.

    Args:
        seeds: Whole numbers, N.
        purpose: What the numbers are for.
        device: Where they go.
    """

    def __init__(self, seeds: Tensor, purpose: str, device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(derive(seed, purpose)) for seed in seeds.tolist()]
        self.device = device

    def uniform(self, stream: str, *shape: int) -> Tensor:
        rows = torch.empty(len(self.generators), *shape)
        for row, generator in zip(rows, self.generators, strict=True):
            row.uniform_(generator=generator)
        return rows.to(self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        rows = torch.empty(len(self.generators), *shape)
        for row, generator in zip(rows, self.generators, strict=True):
            row.normal_(generator=generator)
        return rows.to(self.device)


class TorchNoise:
    """Random numbers of torch's own generators, which who calls has seeded.

    Args:
        count: Rows.
        device: Where they are made.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.device = count, device

    def uniform(self, stream: str, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, device=self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, device=self.device)
