"""Latents that a module finds for a dataset's pictures: how they spread, and which way each attribute lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.exploration import Moments
from lightning_avatars.families.base import LatentModule
from lightning_avatars.images import to_float
from lightning_avatars.labels import suggestion
from lightning_avatars.matching import data_of

BATCH = 250  # pictures encoded at a time
MOST_ENCODED = 10_000  # training pictures that directions are found from


@dataclass(frozen=True)
class Encoded:
    """A dataset's pictures, and what a module makes of them.

    Args:
        module: Finds their latents.
        data: The pictures; by default those that the module was trained on.
    """

    module: LatentModule
    data: FaceData | None = None

    @cached_property
    def served(self) -> FaceData:
        """The data, prepared; raise where it does not go with the module."""
        assert self.module.config is not None
        data = data_of(self.module.config) if self.data is None else self.data
        if self.module.conditional and data.label_names != self.module.label_names:
            raise ValueError(
                f"the data's labels are {some(data.label_names)}, but the model was trained with "
                f"{some(self.module.label_names)}: name data with the same labels by -c"
            )
        size, own = size_of(self.module), (data.channels, data.resolution, data.resolution)
        if size != own:
            raise ValueError(
                f"this model is for images of {by(size)} (channels x height x width), but the data has {by(own)}: name "
                "data like that it was trained on by -c"
            )
        data.prepare_data()
        data.setup("test")
        return data

    def pictures(self, split: Split, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Read pictures of a split by number, counted round and round: bytes, N C H W, and their labels, N L."""
        places = self.served.store.split(split)
        return self.read(places[numbers.numpy() % len(places)])

    def read(self, places: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        store = self.served.store
        return torch.from_numpy(store.read(places)), torch.from_numpy(store.labels[places])

    @cached_property
    def moments(self) -> Moments:
        """How the latents of training pictures spread, and where those with each label lie."""
        places = self.served.store.split("train")
        spread = np.linspace(0, len(places) - 1, min(MOST_ENCODED, len(places))).astype(np.int64)
        batches = np.split(places[spread], range(BATCH, len(spread), BATCH))
        found: Moments | None = None
        for batch in track(batches, "encoding", console=Console(stderr=True), disable=len(spread) < 1000):
            images, labels = self.read(batch)
            latents = find_latents(self.module, images, labels)
            found = found or Moments(latents.shape[1], labels.shape[1])
            found.add(latents, labels)
        assert found is not None
        return found

    @property
    def varied(self) -> list[str]:
        """Labels that some of the training pictures have and others have not."""
        counts, names = self.moments.counts.tolist(), self.served.label_names
        return [name for name, count in zip(names, counts, strict=True) if 0 < count < self.moments.count]

    def vector(self, name: str) -> Tensor:
        """Find the way from pictures without an attribute to those with it, D.

        Raises:
            ValueError: The data has no such label, or all of its pictures have it, or none.
        """
        names = self.served.label_names
        if name not in names:
            about = f"no label is called {name!r}; {suggestion(name.partition('=')[0], name, names)}"
            raise ValueError(about if names else f"the data has no labels, so that there is no way to {name!r}")
        if name not in self.varied:
            share = "all" if self.moments.counts[names.index(name)] else "none"
            raise ValueError(
                f"{share} of the {self.moments.count} training pictures looked at have {name!r}: no way to it"
            )
        return self.moments.vector(names.index(name)).float().to(self.module.device)


def size_of(module: LatentModule) -> tuple[int, ...]:
    """Channels, height and width of a module's images."""
    return tuple(module.sample(torch.zeros(1, dtype=torch.int64)).shape[1:])


@torch.no_grad()
def find_latents(module: LatentModule, images: Tensor, labels: Tensor | None) -> Tensor:
    """Find the latents, N D, of images of bytes; their labels, N L, are for conditional modules alone."""
    found = []
    for rows in torch.arange(len(images)).split(BATCH):
        given = labels[rows].to(module.device) if module.conditional and labels is not None else None
        found.append(module.encode(to_float(images[rows].to(module.device)), given))
    return torch.cat(found)


def by(size: tuple[int, ...]) -> str:
    """Write a size as ``3 x 64 x 64``."""
    return " x ".join(map(str, size))


def some(names: list[str]) -> str:
    """Write out the first few names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "none"
