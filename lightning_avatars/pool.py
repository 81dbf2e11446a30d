"""Images made in the past, which a discriminator goes on judging (Shrivastava et al. 2017, Sec. 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_avatars.metrics.processes import add_up
from lightning_avatars.seeding import Draws, derive


class Plan(NamedTuple):
    """What happens to each image of a global batch: a place in the pool, or -1 for nowhere."""

    read: npt.NDArray[np.int64]  # the place whose image is judged instead
    write: npt.NDArray[np.int64]  # the place where it is kept


class HistoryPool(nn.Module):
    """For each domain, images made in the past: half of what is judged comes from there (CycleGAN, Sec. 4).

    There is one pool for all processes, of which each holds a copy: what happens to an image is drawn for the global
    batch, and all images that are kept are sent to all. Domains take turns within a batch.

    Departure: all images of a batch meet the pool as it was before the batch, so that chunks and processes agree; with
    one image of each domain in a batch this is the paper's pool. An image takes the place of the one that it gave way
    to, each place is read once in a batch, and until the pool is full all images are new.

    Args:
        size: Images kept of each domain. The paper's is 50.
        resolution: Height and width of the images.
        channels: Channels of the images.
        domain_names: Names of the domains; they come from the data.
    """

    images: Tensor

    def __init__(
        self, size: int = 50, resolution: int = 64, channels: int = 3, domain_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a pool keeps at least 1 image of each domain, got {size}: for none, leave pool out")
        self.size, self.domains = size, max(1, len(domain_names))
        self.register_buffer("images", torch.zeros(self.domains, size, channels, resolution, resolution))
        self.count = 0  # images that are there of each domain
        self.waiting: list[tuple[Draws, Tensor]] = []  # what the chunks of this turn had in them

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state

    def plan(self, draws: Draws) -> Plan:
        """Decide what happens to the images of a global batch: the same on every process, for every chunk."""
        number = -(-draws.total // self.domains)  # images of a domain
        free, rng = self.size - self.count, np.random.default_rng(derive(draws.seed, "pool", draws.images_seen))
        read, write = np.full((2, number, self.domains), -1)
        for domain in range(self.domains):
            places, swapped = rng.permutation(self.size)[:number], rng.random(number) < 0.5
            if free:
                write[: min(free, number), domain] = np.arange(self.count, self.size)[:number]
            else:
                chosen = np.where(swapped[: len(places)], places, -1)
                read[: len(places), domain] = write[: len(places), domain] = chosen
        return Plan(read.reshape(-1)[: draws.total], write.reshape(-1)[: draws.total])

    @torch.no_grad()
    def mix(self, made: Tensor, draws: Draws) -> Tensor:
        """Put past images in the place of some, and remember these for ``keep``.

        Args:
            made: Images of one chunk, N C H W, without a graph.
            draws: Random numbers for the chunk.
        """
        self.waiting.append((draws, made))
        read = self.plan(draws).read[draws.start : draws.stop]
        rows = np.flatnonzero(read >= 0)
        if not len(rows):
            return made
        places = on((rows, (draws.start + rows) % self.domains, read[rows]), made.device)
        past = self.images[places[1:]]
        return made.index_copy(0, places[0], past.to(made.dtype))

    @torch.no_grad()
    def keep(self) -> None:
        """Keep what the plan keeps of the images of this turn, on all processes."""
        if not self.waiting:
            return
        write = self.plan(self.waiting[0][0]).write
        rows = np.flatnonzero(write >= 0)
        if len(rows):
            kept = self.images.new_zeros(len(rows), *self.images.shape[2:])
            for draws, made in self.waiting:
                mine = np.flatnonzero((rows >= draws.start) & (rows < draws.stop))
                from_, to = on((rows[mine] - draws.start, mine), made.device)
                kept[to] = made[from_].to(kept.dtype)
            add_up(kept)  # each image is of one process, and zeros of the others
            self.images[on((rows % self.domains, write[rows]), kept.device)] = kept
        self.count = min(self.size, self.count + len(write) // self.domains)
        self.waiting.clear()


def on(numbers: Sequence[npt.NDArray[np.int64]], device: torch.device) -> tuple[Tensor, ...]:
    """Bring places to a device, for which nothing waits."""
    return tuple(torch.from_numpy(x).to(device, non_blocking=True) for x in numbers)
