"""What stands between an encoder and a decoder: nothing, or a distribution over latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_avatars.metrics.processes import rank_and_world
from lightning_avatars.networks.layers.normalization import statistics_over_processes

LOG_VARIANCE = (-30.0, 20.0)  # beyond which exponentials leave float32's comfort


class Encoded(NamedTuple):
    """What a bottleneck makes of features."""

    latents: Tensor  # N D h w, what the decoder is given
    rates: list[Tensor] = []  # noqa: RUF012 - never mutated; nats of each level of latents, N each
    losses: dict[str, Tensor] = {}  # noqa: RUF012 - to be minimised beside, weighted, means over images and latents
    codes: Tensor | None = None  # of a discrete bottleneck, N h w
    log_ratio: Tensor | None = None  # ln p(z) - ln q(z | x) of latents that were drawn, N


class Bottleneck(nn.Module, ABC):
    """A layer between an encoder's features, N F h w, and a decoder's latents, N D h w.

    Args:
        features: Channels that it wants, F.
        width: Channels that it gives, D.
    """

    normal = False  # whether latents are standard normal before an image is seen

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a bottleneck's width, the channels of its latents, must be at least 1, got {width}")
        self.features, self.width = features, width

    @abstractmethod
    def forward(self, features: Tensor) -> Encoded:
        """Draw the latents of features, N F h w."""

    @abstractmethod
    def mean(self, features: Tensor) -> Tensor:
        """Return the latents that stand for features, N F h w, without noise: N D h w."""

    @abstractmethod
    def from_normal(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers, N D h w, into latents as the prior has them."""


class Plain(Bottleneck):
    """Features are the latents, as in an autoencoder without a prior.

    The running mean and deviation of each channel, over all processes, make latents of normal numbers: a prior fitted
    afterwards, with the latents taken as independent.

    Args:
        width: Channels of the latents.
        momentum: Share of a batch in the running statistics.
    """

    location: Tensor
    deviation: Tensor

    def __init__(self, width: int = 128, momentum: float = 0.01) -> None:
        super().__init__(width, width)
        self.momentum = momentum
        self.register_buffer("location", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, features: Tensor) -> Encoded:
        if self.training:
            self.update(features.detach().float())
        return Encoded(features)

    @torch.no_grad()
    def update(self, latents: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        if rank_and_world()[1] > 1:
            mean, variance, _ = statistics_over_processes(latents)
        else:
            variance, mean = torch.var_mean(latents, dim=(0, 2, 3), correction=0)
        self.location.lerp_(mean, self.momentum)
        self.deviation.lerp_(variance.sqrt(), self.momentum)

    def mean(self, features: Tensor) -> Tensor:
        return features

    def from_normal(self, noise: Tensor) -> Tensor:
        return self.location[:, None, None] + self.deviation[:, None, None] * noise


class DiagonalGaussian(Bottleneck):
    """Independent normal latents with a standard normal prior (Kingma and Welling 2014).

    Half of the features are means, the other half are logarithms of variances.

    Args:
        width: Channels of the latents.
    """

    normal = True

    def __init__(self, width: int = 128) -> None:
        super().__init__(2 * width, width)

    def forward(self, features: Tensor) -> Encoded:
        mean, log_variance = self.posterior(features)
        noise = normal_like(mean, self.training)
        latents = mean + (log_variance / 2).exp() * noise  # Kingma and Welling 2014, Sec. 2.4
        log_ratio = (noise.square() + log_variance - latents.square()).flatten(1).sum(1) / 2
        return Encoded(latents, [kl_to_standard(mean, log_variance)], log_ratio=log_ratio)

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the logarithms of the variances, N D h w each, in float32 at least."""
        mean, log_variance = features.to(torch.promote_types(features.dtype, torch.float32)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def mean(self, features: Tensor) -> Tensor:
        return self.posterior(features)[0]

    def from_normal(self, noise: Tensor) -> Tensor:
        return noise


def normal_like(x: Tensor, training: bool) -> Tensor:
    """Draw standard normal numbers for the images of ``x``; in training, cut out of those of all processes' images.

    Where all processes seed their generators alike (``seeding.reseed`` with rank 0), several draw what one process
    with all the images would.
    """
    rank, world = rank_and_world() if training else (0, 1)
    noise = torch.randn(len(x) * world, *x.shape[1:], dtype=x.dtype, device=x.device)  # in order, unlike x in memory
    return noise[len(x) * rank : len(x) * (rank + 1)]


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Sum the KL divergences from normal to standard normal distributions over an image's latents: N, in nats.

    Kingma and Welling 2014, Appendix B.
    """
    return (mean.square() + log_variance.expm1() - log_variance).flatten(1).sum(1) / 2
