"""What autoencoders look like to everyone else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


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


class QuantizedAutoencoder(Autoencoder):
    """An autoencoder whose latents are words of a codebook, one for each place.

    Args:
        latent_dim: Length of the latents of an image, all places laid out in a row.
        codebook: Number of words.
        places: Height and width of the grid of words.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    def __init__(self, latent_dim: int, codebook: int, places: tuple[int, int], label_dim: int = 0) -> None:
        super().__init__(latent_dim, label_dim)
        self.codebook, self.places = codebook, places

    @abstractmethod
    def encode_codes(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the words' numbers of images, N h w, whole numbers below ``codebook``."""

    @abstractmethod
    def decode_codes(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the likelihood's parameters for the words' numbers, N h w."""
