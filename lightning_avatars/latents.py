"""Priors that latent vectors are drawn from."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_avatars.seeding import derive


class Prior(ABC):
    """A distribution over latent vectors."""

    @property
    def code_dim(self) -> int:
        """How many numbers a discriminator gives to say which codes made an image; 0 where there are none."""
        return 0

    def check(self, dim: int) -> None:
        """Raise a ValueError where there are no vectors of this length."""
        if dim < 1:
            raise ValueError(f"latent vectors have at least one entry, but generator.latent_dim is {dim}")

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


class Codes(Prior):
    """Noise, and beside it codes that a discriminator finds again (InfoGAN, Chen et al. 2016, Sec. 4).

    A vector is standard normal noise, then each categorical code as a one-hot vector, all its values equally likely,
    then the continuous codes, uniform in [-1, 1).

    Args:
        noise: Length of the noise.
        categorical: Number of values of each categorical code.
        continuous: Number of continuous codes.
    """

    def __init__(self, noise: int, categorical: list[int], continuous: int = 0) -> None:
        if noise < 0 or continuous < 0 or any(values < 2 for values in categorical):
            raise ValueError(
                f"codes need noise >= 0, categorical codes of 2 values or more and continuous >= 0, got noise {noise}, "
                f"categorical {categorical}, continuous {continuous}"
            )
        if not (categorical or continuous):
            raise ValueError("codes need at least one: give categorical, such as [10], or continuous, or another prior")
        self.noise, self.categorical, self.continuous = noise, list(categorical), continuous

    @property
    def code_dim(self) -> int:
        """A logit for each value of a categorical code; a mean and a spread for each continuous code."""
        return sum(self.categorical) + 2 * self.continuous

    def check(self, dim: int) -> None:
        total = self.noise + sum(self.categorical) + self.continuous
        if dim != total:
            parts = " + ".join(map(str, [self.noise, *self.categorical, self.continuous]))
            raise ValueError(
                f"generator.latent_dim is {dim}, but prior.noise, categorical and continuous codes are {parts} = "
                f"{total} numbers: make these equal"
            )

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        self.check(dim)
        device = generator.device
        noise = torch.randn(count, self.noise, generator=generator, device=device)
        chosen = [torch.randint(k, (count,), generator=generator, device=device) for k in self.categorical]
        continuous = torch.rand(count, self.continuous, generator=generator, device=device).mul_(2).sub_(1)
        one_hots = [one_hot(c, k).to(noise) for c, k in zip(chosen, self.categorical, strict=True)]
        return torch.cat([noise, *one_hots, continuous], dim=1)

    def split(self, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """Cut the codes out of vectors: a one-hot N x values for each categorical code, and N x continuous."""
        *one_hots, continuous = torch.split(z[:, self.noise :], [*self.categorical, self.continuous], dim=1)
        return one_hots, continuous
