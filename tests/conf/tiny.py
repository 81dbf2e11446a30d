"""Tiny data and networks, so that whole runs take seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lightning_avatars.data.base import FaceDataset, Picture
from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.normalization import BatchNorm2d


class TinyFaces(FaceDataset):
    """Discs of two colours and two sizes: something that a tiny network can learn.

    Args:
        count: Pictures.
    """

    def __init__(self, count: int = 96) -> None:
        super().__init__()
        self.count = count

    @property
    def name(self) -> str:
        return "tiny"

    @property
    def label_names(self) -> list[str]:
        return ["colour=red", "colour=blue", "large"]

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        y, x = np.mgrid[:resolution, :resolution] / resolution - 0.5
        for i in range(self.count):
            rng = np.random.default_rng(i)
            blue, large = rng.integers(2, size=2)
            inside = (x**2 + y**2) < (0.4 if large else 0.2) ** 2
            image = rng.integers(200, 256, (3, resolution, resolution), dtype=np.uint8)
            image[:, inside] = np.array([[20], [20], [250]] if blue else [[250], [20], [20]], np.uint8)
            labels = np.array([1 - blue, blue, large], np.float32)
            yield Picture(f"{i}", image, labels, hashlib.sha256(image.tobytes()).digest()[:16])


class TinyGenerator(Generator):
    """One hidden layer, one convolution; a ``level`` buffer scales the output, as a schedule may ask.

    Args:
        resolution: Height and width.
        channels: Colours.
        label_dim: Length of the labels.
        latent_dim: Length of the latent vectors.
        normalized: Whether to use batch normalisation.
    """

    def __init__(
        self, resolution: int = 8, channels: int = 3, label_dim: int = 0, latent_dim: int = 8, normalized: bool = False
    ) -> None:
        super().__init__(latent_dim, label_dim)
        self.resolution = resolution
        self.hidden = nn.Linear(latent_dim + label_dim, 4 * resolution**2)
        self.norm = BatchNorm2d(4) if normalized else nn.Identity()
        self.image = nn.Conv2d(4, channels, 3, padding=1)
        self.register_buffer("level", torch.ones(()))
        self.calls = 0

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        x = z if labels is None else torch.cat([z, labels], 1)
        x = self.norm(self.hidden(x).view(len(z), 4, self.resolution, self.resolution))
        return (self.image(x.relu()) * self.level).tanh()


class TinyDiscriminator(Discriminator):
    """Two scales of one convolution and one linear layer; smooth, so that penalties have second derivatives.

    Args:
        resolution: Height and width.
        channels: Colours.
        label_dim: Length of the labels.
        normalized: Whether to use batch normalisation.
    """

    def __init__(self, resolution: int = 8, channels: int = 3, label_dim: int = 0, normalized: bool = False) -> None:
        super().__init__(label_dim)
        self.conv = nn.Conv2d(channels, 8, 3, 2, 1, bias=not normalized)  # batch norm would make it noise
        self.norm = BatchNorm2d(8) if normalized else nn.Identity()
        self.fine, self.coarse = nn.Linear(8 * (resolution // 2) ** 2 + label_dim, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        h = nn.functional.softplus(self.norm(self.conv(x)))
        flat = h.flatten(1) if labels is None else torch.cat([h.flatten(1), labels], 1)
        return Verdict([self.fine(flat)[:, 0], self.coarse(h.mean((2, 3)))[:, 0]], [h])
