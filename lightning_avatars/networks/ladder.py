"""A hierarchical VAE whose levels share one way down (Ladder VAE, Sønderby et al. 2016; Very Deep VAE, Child 2021).

Deterministic features go up from the image to 1 x 1. On the way down each level draws its latents z_l, from the prior
p(z_l | z_<l) or from the posterior q(z_l | z_<l, x), which sees the features on the way up at the same resolution too
(Child 2021, Fig. 3), and adds them to the features on the way down. Latents are laid out as standard normal numbers
eps, z_l = mean of the prior + deviation of the prior x eps_l, coarse levels first.

Departures: as many levels at each resolution, none above ``finest``; 2 x 2 is skipped; more channels of features and
latents at lower resolutions; no updates are skipped, but log-deviations bounded softly. The Ladder VAE's merging by
precision is left to a network, as in Child 2021.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, silu

from lightning_avatars.networks.autoencoder import Autoencoder, Reconstruction
from lightning_avatars.networks.layers.bottlenecks import normal_like
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.stages import stage_widths

WIDEST = 5.0  # bound of log-deviations


def gaussians(x: Tensor) -> tuple[Tensor, Tensor]:
    """Read channels as means and, the second half, log-deviations of independent normal numbers."""
    mean, log_deviation = x.float().chunk(2, 1)
    return mean, WIDEST * (log_deviation / WIDEST).tanh()


def divergence(mean: Tensor, log_deviation: Tensor, prior_mean: Tensor, prior_log_deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(q || p) of diagonal Gaussians in nats, summed over all but the first dimension."""
    difference = log_deviation - prior_log_deviation
    distance = (mean - prior_mean) * (-prior_log_deviation).exp()
    return (((2 * difference).exp() + distance**2 - 1) / 2 - difference).flatten(1).sum(1)


def convolution(before: int, after: int, kernel: int = 1, gain: float = 1.0) -> nn.Conv2d:
    """Make a convolution that multiplies the variance of its input by about ``gain`` squared."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(before * kernel**2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Drawn(NamedTuple):
    """Latents of a level, drawn for images."""

    latents: Tensor  # deviations from the prior's means, N x numbers of the level
    rate: Tensor  # nats, N
    log_ratio: Tensor  # ln p(z_l | z_<l) - ln q(z_l | z_<l, x), N


class Block(nn.Module):
    """Four convolutions with fewer channels inside (Child 2021, Fig. 3).

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Side of the two inner convolutions.
        gain: Of the last convolution.
    """

    def __init__(self, before: int, after: int, kernel: int, gain: float = 1.0) -> None:
        super().__init__()
        inside = max(after // 2, 8)  # a quarter in the paper, whose networks are ten times as wide
        self.narrow = convolution(before, inside, gain=math.sqrt(2))
        self.first = convolution(inside, inside, kernel, math.sqrt(2))
        self.second = convolution(inside, inside, kernel, math.sqrt(2))
        self.widen = convolution(inside, after, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(silu(self.narrow(silu(x))))
        change: Tensor = self.widen(silu(self.second(silu(x))))
        return change


class Residual(Block):
    """Such a block beside the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Level(nn.Module):
    """One level of latents on the way down.

    Args:
        width: Channels on the way down, and on the way up at this resolution.
        latent_channels: Channels of the latents.
        side: Height and width.
        gain: Of what is added to the way down, so that many levels add up to a variance of about one.
    """

    def __init__(self, width: int, latent_channels: int, side: int, gain: float) -> None:
        super().__init__()
        kernel = 1 if side == 1 else 3
        self.shape = (latent_channels, side, side)
        self.width = width
        self.prior = Block(width, 2 * latent_channels + width, kernel, gain=0.0)  # standard normal at the start
        self.posterior = Block(2 * width, 2 * latent_channels, kernel, gain=0.1)  # and so nearly is this
        self.latent = convolution(latent_channels, width, gain=gain)
        self.residual = Residual(width, width, kernel, gain)

    @property
    def size(self) -> int:
        """How many numbers the latents of an image have here."""
        return math.prod(self.shape)

    def from_prior(self, x: Tensor, noise: Tensor) -> Tensor:
        """Go on from ``x`` with latents that are ``noise``, N C h w, deviations from the prior's means."""
        features, mean, log_deviation = self.expected(x)
        return self.go_on(x + features, mean + log_deviation.exp() * noise)

    def from_posterior(self, x: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Drawn]:
        """Go on from ``x`` with latents of an image.

        Args:
            x: Features on the way down.
            seen: Features of the image on the way up.
            noise: Deviations from the posterior's means, N C h w.

        Returns:
            Features further down, and the latents.
        """
        features, prior_mean, prior_log_deviation = self.expected(x)
        mean, log_deviation = gaussians(self.posterior(torch.cat([x, seen], 1)))
        rate = divergence(mean, log_deviation, prior_mean, prior_log_deviation)
        z = mean + log_deviation.exp() * noise
        eps = (z - prior_mean) * (-prior_log_deviation).exp()
        log_ratio = (noise**2 - eps**2) / 2 + log_deviation - prior_log_deviation
        return self.go_on(x + features, z), Drawn(eps.flatten(1), rate, log_ratio.flatten(1).sum(1))

    def expected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features that need no latents, and the prior's means and log-deviations."""
        features, given = self.prior(x).split([self.width, 2 * self.shape[0]], 1)
        return features, *gaussians(given)

    def go_on(self, x: Tensor, z: Tensor) -> Tensor:
        further: Tensor = self.residual(x + self.latent(z.to(x.dtype)))
        return further


class LadderAutoencoder(Autoencoder):
    """A hierarchical VAE: levels of latents at 1 x 1, 4 x 4, 8 x 8, … up to ``finest``.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 256.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        parameters_per_channel: Numbers that the likelihood needs for each channel of a pixel.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this.
        latent_channels: Channels of the latents at ``finest``; they double with each halving, up to ``max_width``.
        blocks: Levels at each resolution, and residual blocks there on the way up.
        finest: Largest height and width of latents.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        parameters_per_channel: int = 1,
        width: int = 32,
        max_width: int = 256,
        latent_channels: int = 8,
        blocks: int = 1,
        finest: int = 8,
    ) -> None:
        widths = stage_widths(resolution, width, max_width, lowest=8, highest=256)
        widths = [widths[0], *widths]  # 1 x 1 first
        sides = [1, *(resolution >> i for i in reversed(range(len(widths) - 1)))]
        check(resolution, width, latent_channels, blocks, finest, sides)
        coarse = [side for side in sides if side <= finest]
        depths = [min(latent_channels << i, max_width) for i in reversed(range(len(coarse)))]
        super().__init__(blocks * sum(n * side**2 for n, side in zip(depths, coarse, strict=True)), label_dim)

        plain = [blocks if side > finest or side == resolution else 0 for side in sides]
        gain = (blocks * len(sides)) ** -0.5  # Child 2021, Sec. 3.2
        self.sides = sides
        self.input = convolution(channels, widths[-1], 3)
        self.up = nn.ModuleList(  # from the coarsest to the finest, as all lists here
            nn.Sequential(*(Residual(wide, wide, 1 if side == 1 else 3, gain) for _ in range(blocks)))
            for wide, side in zip(widths, sides, strict=True)
        )
        self.wider = nn.ModuleList(convolution(fine, coarse) for coarse, fine in pairwise(widths))
        self.start = nn.Parameter(torch.zeros(1, widths[0], 1, 1))
        self.embeddings = nn.ModuleList(LabelEmbedding(label_dim, wide) for wide in widths if label_dim)
        self.down = nn.ModuleList(
            Level(wide, depth, side, gain)
            for wide, side, depth in zip(widths, coarse, depths, strict=False)
            for _ in range(blocks)
        )
        self.narrower = nn.ModuleList(convolution(coarse, fine) for coarse, fine in pairwise(widths))
        self.finer = nn.ModuleList(  # at resolutions without latents, and before the output
            nn.Sequential(*(Residual(wide, wide, 3, gain) for _ in range(count)))
            for wide, count in zip(widths, plain, strict=True)
        )
        self.output = convolution(widths[-1], channels * parameters_per_channel, 3)

    @property
    def levels(self) -> list[Level]:
        """Levels of latents, the coarsest first."""
        return [level for level in self.down if isinstance(level, Level)]

    def levels_at(self, side: int) -> list[Level]:
        return [level for level in self.levels if level.shape[1] == side]

    @property
    def normal(self) -> bool:
        return True  # levels are given standard normal numbers, each made one of its prior

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        output, drawn = self.infer(x, labels, normal_like(x.new_empty(len(x), self.latent_dim), self.training))
        log_ratio = torch.stack([level.log_ratio for level in drawn]).sum(0)
        return Reconstruction(output, [level.rate for level in drawn], log_ratio=log_ratio)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        drawn = self.infer(x, labels, torch.zeros(len(x), self.latent_dim, device=x.device))[1]
        return torch.cat([level.latents for level in drawn], 1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        pieces = iter(self.split(latents))
        x = self.start.expand(len(latents), -1, -1, -1)
        for number, side in enumerate(self.sides):
            x = self.arrive(x, number, labels)
            for level in self.levels_at(side):
                x = level.from_prior(x, next(pieces))
            x = self.finer[number](x)
        return self.finish(x).to(latents.dtype)

    def from_normal(self, noise: Tensor) -> Tensor:
        return noise

    def infer(self, x: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Tensor, list[Drawn]]:
        """Go up from images and down through their posteriors.

        Args:
            x: Images, N C H W.
            labels: Their labels.
            noise: Standard normal numbers, N x latent_dim, of the posteriors; zeros for their means.

        Returns:
            The likelihood's parameters, and each level's latents.
        """
        seen, pieces = self.climb(x), iter(self.split(noise))
        down, drawn = self.start.expand(len(x), -1, -1, -1), []
        for number, side in enumerate(self.sides):
            down = self.arrive(down, number, labels)
            for level in self.levels_at(side):
                down, latents = level.from_posterior(down, seen[number], next(pieces))
                drawn.append(latents)
            down = self.finer[number](down)
        return self.finish(down).to(x.dtype), drawn

    def climb(self, x: Tensor) -> list[Tensor]:
        """Features of images at each resolution, the coarsest first."""
        x, found = self.input(x), []
        for number in reversed(range(len(self.sides))):
            x = self.up[number](x)
            found.append(x)
            if number:
                x = self.wider[number - 1](adaptive_avg_pool2d(x, self.sides[number - 1]))
        return found[::-1]

    def arrive(self, x: Tensor, number: int, labels: Tensor | None) -> Tensor:
        """Bring features on the way down to a resolution, and tell them the labels."""
        if number:
            x = interpolate(self.narrower[number - 1](x), size=self.sides[number])
        return x + self.embeddings[number](labels)[:, :, None, None].to(x.dtype) if self.label_dim else x

    def finish(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(silu(x))
        return output

    def split(self, latents: Tensor) -> list[Tensor]:
        """Cut numbers laid out in a row, N x latent_dim, into those of each level, N C h w."""
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(f"this network's latents are N x {self.latent_dim}, got {tuple(latents.shape)}")
        pieces = torch.split(latents, [level.size for level in self.levels], 1)
        return [piece.reshape(-1, *level.shape) for piece, level in zip(pieces, self.levels, strict=True)]


def check(resolution: int, width: int, latent_channels: int, blocks: int, finest: int, sides: list[int]) -> None:
    """Raise a ValueError where there is no such network."""
    for name, count in (("width", width), ("latent_channels", latent_channels), ("blocks", blocks)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if finest not in sides:
        raise ValueError(
            f"finest is {finest}, but latents at resolution {resolution} are at {', '.join(map(str, sides))}: "
            "choose one of these"
        )
