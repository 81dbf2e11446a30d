"""Which pictures make each batch: endless orders for training, each picture once for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class BatchIndex(NamedTuple):
    """Which pictures make a batch, and where in the endless run of positions they stand."""

    index: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


class EndlessOrder:
    """Pictures without end, in an order drawn anew for each pass: a pure function of the place in it.

    Args:
        index: The pictures.
        seed: Seed of the order.
        domain: The domain they are of; each has an order of its own.
    """

    def __init__(self, index: npt.NDArray[np.int64], seed: int, domain: int = 0) -> None:
        self.index, self.seed, self.domain = index, seed, domain
        self.orders: dict[int, npt.NDArray[np.int64]] = {}

    def __getitem__(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        passes, within = np.divmod(places, len(self.index))
        self.orders = {p: self.orders[p] if p in self.orders else self.order(p) for p in np.unique(passes).tolist()}
        picked = np.zeros_like(places)
        for number, order in self.orders.items():
            picked[passes == number] = order[within[passes == number]]
        return self.index[picked]

    def order(self, number: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, number, self.domain]).permutation(len(self.index))


class EndlessSampler(Sampler[BatchIndex]):
    """Batches without end: a pure function of ``(seed, position)``, so that it can start anywhere.

    Position p shows picture ``order(p // size)[p % size]``, where ``order`` is a permutation drawn anew for each pass.
    Of K domains, position p shows one of domain p % K, each domain in an endless order of its own.

    Args:
        index: The pictures of the split.
        batch_size: Images per batch over all processes.
        seed: Seed of the order.
        start: Images seen before the first batch.
        rank: This process.
        world_size: Number of processes; each takes its contiguous part of the batch.
        domains: The domain of each of the pictures, 0 to K - 1, where they have any; each domain has some.
    """

    def __init__(
        self,
        index: npt.NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        domains: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.batch_size, self.start = batch_size, start
        local = batch_size // world_size
        self.offsets = np.arange(rank * local, (rank + 1) * local)
        of_domain = [index] if domains is None else [index[domains == d] for d in range(domains.max() + 1)]
        self.orders = [EndlessOrder(pictures, seed, domain) for domain, pictures in enumerate(of_domain)]

    def __iter__(self) -> Iterator[BatchIndex]:
        base = self.start
        while True:
            position = base + self.offsets
            places, domain = np.divmod(position, len(self.orders))
            picked = np.zeros_like(position)
            for number, order in enumerate(self.orders):
                picked[domain == number] = order[places[domain == number]]
            yield BatchIndex(picked, position)
            base += self.batch_size


class OnceSampler(Sampler[BatchIndex]):
    """Every picture once, in order; process r takes batches r, r + W, … so that nothing is padded or repeated.

    Batches are smaller where there are too few pictures for every process to have one.
    """

    def __init__(self, index: npt.NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if len(index) < world_size:
            raise ValueError(f"{len(index)} pictures are too few for {world_size} processes: use fewer processes")
        batch_size = min(batch_size, len(index) // world_size)
        starts = range(rank * batch_size, len(index), world_size * batch_size)
        self.batches = [
            BatchIndex(index[s : s + batch_size], np.arange(s, min(s + batch_size, len(index)))) for s in starts
        ]

    def __iter__(self) -> Iterator[BatchIndex]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
