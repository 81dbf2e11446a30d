"""What the players of an adversarial game look like to everyone else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from lightning_avatars.networks.layers.stages import at_least_one


class Verdict(NamedTuple):
    """What a discriminator says of images; one forward pass serves every loss."""

    logits: list[Tensor]  # one per scale, N or N 1 H W
    features: list[Tensor] = []  # noqa: RUF012 - never mutated; for feature matching
    heads: dict[str, Tensor] = {}  # noqa: RUF012 - class, code, …

    def float(self) -> Verdict:
        """Logits and heads in float32, whatever precision the network ran in."""
        return Verdict([x.float() for x in self.logits], self.features, {k: x.float() for k, x in self.heads.items()})


class Generator(nn.Module, ABC):
    """A network that turns latent vectors, and labels where it is conditional, into images.

    Args:
        latent_dim: Length of the latent vectors.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    def __init__(self, latent_dim: int, label_dim: int = 0) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.latent_dim, self.label_dim = latent_dim, label_dim

    @abstractmethod
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images, N C H W, about in [-1, 1], from ``z``, N x latent_dim, and ``labels``, N x label_dim."""

    @property
    def entry(self) -> Tensor | None:
        """Weights of the linear layers that latents, or styles, go through first, outputs x length, if any."""
        return None

    def truncated(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        """Draw images nearer to the mean one; networks that can override this."""
        if truncation_psi != 1:
            raise ValueError(f"{type(self).__name__} has no truncation: leave truncation_psi at 1")
        images: Tensor = self(z, labels)
        return images


class Discriminator(nn.Module, ABC):
    """A network that tells real images from made ones.

    Args:
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    def __init__(self, label_dim: int = 0) -> None:
        super().__init__()
        self.label_dim = label_dim

    @property
    def heads(self) -> dict[str, int]:
        """Lengths of the heads in the verdicts, by name; terms must read them all."""
        return {}

    @abstractmethod
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        """Judge images ``x``, N C H W in [-1, 1], with ``labels``, N x label_dim."""
