"""Priors that latent vectors are drawn from."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_avatars.seeding import derive


class Prior(ABC):
    """A distribution over latent vectors."""

    @abstractmethod
    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        """Draw latent vectors, count x dim, on the generator's device."""

    def of_seeds(self, seeds: Tensor, dim: int) -> Tensor:
        """Draw one latent vector per seed, N x dim, made on the CPU: the same on every machine, in any batch."""
        generator = torch.Generator()
        return torch.cat([self.draw(1, dim, generator.manual_seed(derive(s, "sample"))) for s in seeds.tolist()])


class Gaussian(Prior):
    """Standard normal vectors."""

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, dim, generator=generator, device=generator.device)


class Uniform(Prior):
    """Vectors with independent entries in [-1, 1) (GAN 2014, DCGAN)."""

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, dim, generator=generator, device=generator.device).mul_(2).sub_(1)
