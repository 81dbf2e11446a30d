"""What autoencoders look like to everyone else, and what those of a grid of latents share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from lightning_avatars.networks.layers.bottlenecks import Bottleneck
from lightning_avatars.networks.layers.quantizers import Quantizer


class Reconstruction(NamedTuple):
    """What an autoencoder makes of images."""

    output: Tensor  # parameters of the likelihood, N (channels x parameters of each) H W
    rates: list[Tensor] = []  # noqa: RUF012 - never mutated; nats of each level of latents, N each
    losses: dict[str, Tensor] = {}  # noqa: RUF012 - what the bottleneck wants minimised beside, means over images
    codes: Tensor | None = None  # of a discrete bottleneck, N h w
    log_ratio: Tensor | None = None  # ln p(z) - ln q(z | x) of all latents that were drawn, N, in nats


class Autoencoder(nn.Module, ABC):
    """A network that turns images into latents and latents into images.

    Args:
        latent_dim: Length of the latents of an image, all levels and places laid out in a row.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    def __init__(self, latent_dim: int, label_dim: int = 0) -> None:
        super().__init__()
        self.latent_dim, self.label_dim = latent_dim, label_dim

    @property
    def entry(self) -> Tensor | None:
        """Weights of the linear layer that latents go through first, outputs x length, if there is one."""
        return None

    @property
    def normal(self) -> bool:
        """Whether latents are standard normal before an image is seen."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        """Encode images, N C H W in [-1, 1], draw their latents and decode them."""

    @abstractmethod
    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the latents that stand for images, N x latent_dim, without noise."""

    @abstractmethod
    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the likelihood's parameters for latents, N x latent_dim."""

    @abstractmethod
    def from_normal(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers, N x latent_dim, into latents as the prior has them."""


class GridAutoencoder(Autoencoder):
    """An autoencoder whose latents lie on a grid: an encoder, a bottleneck and a decoder, one after the other.

    Args:
        grid: Channels, height and width of the latents.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    encoder: nn.Module  # images and labels to features, N F h w
    bottleneck: Bottleneck
    decoder: nn.Module  # latents, N D h w, and labels to the likelihood's parameters

    def __init__(self, grid: tuple[int, int, int], label_dim: int = 0) -> None:
        super().__init__(math.prod(grid), label_dim)
        self.grid = grid

    @property
    def between(self) -> Bottleneck:
        """What makes latents of features."""
        return self.bottleneck

    @property
    def normal(self) -> bool:
        return self.between.normal

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        latents, *said = self.between(self.encoder(x, labels))
        return Reconstruction(self.decoder(latents, labels), *said)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.between.mean(self.encoder(x, labels)).flatten(1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.decoder(latents.reshape(-1, *self.grid), labels)
        return output

    def from_normal(self, noise: Tensor) -> Tensor:
        return self.between.from_normal(noise.reshape(-1, *self.grid)).flatten(1)


class QuantizedAutoencoder(GridAutoencoder):
    """An autoencoder whose latents are words of a codebook, one for each place of the grid.

    Args:
        grid: Length of the words, height and width of the grid.
        codebook: Number of words.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    quantizer: Quantizer

    def __init__(self, grid: tuple[int, int, int], codebook: int, label_dim: int = 0) -> None:
        super().__init__(grid, label_dim)
        self.codebook, self.places = codebook, grid[1:]

    @property
    def between(self) -> Bottleneck:
        return self.quantizer

    def encode_codes(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the words' numbers of images, N h w, whole numbers below ``codebook``."""
        return self.quantizer.codes(self.encoder(x, labels))

    def decode_codes(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the likelihood's parameters for the words' numbers, N h w."""
        output: Tensor = self.decoder(self.quantizer.embed(codes), labels)
        return output
