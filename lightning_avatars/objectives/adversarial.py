"""Adversarial objectives: what the two players minimise, as functions of one scale's logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import relu, softplus


class Objective(ABC):
    """A pair of losses on logits of any shape; their means are taken over everything."""

    relativistic = False  # whether the generator's loss compares with real images

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises."""

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """What the generator minimises; ``real`` is given to relativistic objectives."""


class Minimax(Objective):
    """The zero-sum game; the generator's gradient fades when it loses (Goodfellow et al. 2014, Eq. 1)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -softplus(fake).mean()


class NonSaturating(Minimax):
    """The game as it is played: the generator maximises log D (Goodfellow et al. 2014, Sec. 3)."""

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return softplus(-fake).mean()


class LeastSquares(Objective):
    """Squared distance to targets 1 and 0 (LSGAN, Mao et al. 2017, Eq. 9)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return (fake - 1).square().mean() / 2


class Wasserstein(Objective):
    """The difference of mean critic values (WGAN, Arjovsky et al. 2017, Eq. 3); the critic must be made smooth."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class Hinge(Wasserstein):
    """Margins of one on either side (Lim and Ye 2017; Miyato et al. 2018, Eq. 17)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()


class Relativistic(Objective):
    """Each fake against one real image (RpGAN, Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024, Eq. 2)."""

    relativistic = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        if real is None:
            raise ValueError("Relativistic compares fake images with real ones: give the logits of real images too")
        return softplus(real - fake).mean()
