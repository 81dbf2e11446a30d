"""R3GAN: residual networks without normalisation (Huang et al. 2024, "The GAN is dead; long live the GAN!", Sec. 3).

Both players mirror each other: a 4 x 4 basis, then stages of inverted bottlenecks with grouped convolutions, joined by
bilinear resampling. Published sizes: ``widths: [768, 768, 768, 768]`` from 4 x 4 upwards at 32 x 32 (CIFAR-10), five
768 at 64 x 64, ``[768, 768, 768, 768, 384, 192, 96]`` at 256 x 256, always with ``blocks: 2``.

Departures: upsampling by the symmetric kernel [1, 3, 3, 1] and downsampling by the mean of 2 x 2 pixels, which is what
bilinear interpolation by two is, where the published code filters with [1, 2, 1]; and labels also have the
unconditional term of the projection discriminator, so that an image without any attribute has a logit.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.labels import LabelEmbedding, ProjectionHead
from lightning_avatars.networks.layers.stages import at_least_one, doublings

SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2 / (1 + SLOPE**2))  # He et al. 2015, Eq. 15


def convolution(
    before: int, after: int, kernel: int = 1, groups: int = 1, gain: float = 1.0, bias: bool = False
) -> nn.Conv2d:
    """Make a convolution that multiplies the variance of its input by ``gain`` squared."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(before // groups * kernel**2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Residual(nn.Module):
    """An inverted bottleneck around a grouped 3 x 3 convolution, started as the identity (Fix-up, Zhang et al. 2019).

    Args:
        width: Channels in and out.
        expansion: Channels inside, as a multiple of ``width``.
        group_width: Channels of one group.
        total: Number of blocks in the network, which scales the start.
    """

    def __init__(self, width: int, expansion: int, group_width: int, total: int) -> None:
        super().__init__()
        inside = width * expansion
        if inside % group_width:
            raise ValueError(
                f"width {width} x expansion {expansion} = {inside} channels can't be cut into groups of {group_width}: "
                "choose widths or a group_width that divides"
            )
        gain = ACTIVATION_GAIN * total ** (-1 / 4)  # Fix-up, L^(-1 / (2m - 2)) with m = 3 layers
        self.widen = convolution(width, inside, gain=gain, bias=True)
        self.mix = convolution(inside, inside, 3, inside // group_width, gain=gain, bias=True)
        self.narrow = convolution(inside, width, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = leaky_relu(self.widen(x), SLOPE)
        y = leaky_relu(self.mix(y), SLOPE)
        change: Tensor = self.narrow(y)
        return x + change


def stage_widths(resolution: int, width: int, max_width: int, widths: list[int] | None) -> list[int]:
    """Channels at 4 x 4, 8 x 8, … up to the resolution."""
    at_least_one(width=width, max_width=max_width, widths=min(widths or [1]))
    stages = doublings(resolution, lowest=16, highest=1024) + 1
    if widths is None:
        return [min(width << i, max_width) for i in reversed(range(stages))]
    if len(widths) != stages:
        raise ValueError(
            f"widths must name {stages} stages, from 4 x 4 to {resolution} x {resolution}, got {len(widths)}: {widths}"
        )
    return widths


def stages(sizes: list[int], blocks: int, expansion: int, group_width: int) -> nn.ModuleList:
    """Residual blocks of each resolution."""
    at_least_one(blocks=blocks, expansion=expansion, group_width=group_width)
    total = blocks * len(sizes)
    return nn.ModuleList(
        nn.Sequential(*(Residual(size, expansion, group_width, total) for _ in range(blocks))) for size in sizes
    )


def transitions(sizes: list[int]) -> nn.ModuleList:
    """What changes the number of channels between two resolutions, where it changes."""
    return nn.ModuleList(
        convolution(before, after) if before != after else nn.Identity() for before, after in pairwise(sizes)
    )


class R3GANGenerator(Generator):
    """A learned 4 x 4 basis weighted by the latent, grown to an image by residual stages.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors. The paper has 64.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this.
        widths: Channels of each stage from 4 x 4 upwards, instead of ``width`` and ``max_width``.
        blocks: Residual blocks in each stage. The paper has 2.
        expansion: Channels inside a block, as a multiple of those outside.
        group_width: Channels of one group of a 3 x 3 convolution; the cardinality is the rest of the division.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 64,
        width: int = 16,
        max_width: int = 256,
        widths: list[int] | None = None,
        blocks: int = 1,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(latent_dim, label_dim)
        sizes = stage_widths(resolution, width, max_width, widths)
        inputs = latent_dim * (2 if label_dim else 1)
        self.embedding = LabelEmbedding(label_dim, latent_dim) if label_dim else None
        self.basis = nn.Parameter(torch.randn(sizes[0], 4, 4))
        self.modulation = nn.Linear(inputs, sizes[0], bias=False)
        nn.init.normal_(self.modulation.weight, std=inputs**-0.5)
        self.stages, self.transitions = stages(sizes, blocks, expansion, group_width), transitions(sizes)
        self.output = convolution(sizes[-1], channels)

    @property
    def entry(self) -> Tensor:
        return self.modulation.weight[:, : self.latent_dim]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        weights = z if self.embedding is None else torch.cat([z, self.embedding(labels).to(z.dtype)], dim=1)
        x = self.stages[0](self.basis * self.modulation(weights)[:, :, None, None])
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = interpolate(transition(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = stage(x)
        image: Tensor = self.output(x)
        return image.to(z.dtype)


class R3GANDiscriminator(Discriminator):
    """Residual stages down to 4 x 4, a learned basis that reads them, and a projection head.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this.
        widths: Channels of each stage from 4 x 4 upwards, as in the generator, instead of ``width`` and ``max_width``.
        blocks: Residual blocks in each stage. The paper has 2.
        expansion: Channels inside a block, as a multiple of those outside.
        group_width: Channels of one group of a 3 x 3 convolution; the cardinality is the rest of the division.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 16,
        max_width: int = 256,
        widths: list[int] | None = None,
        blocks: int = 1,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(label_dim)
        sizes = stage_widths(resolution, width, max_width, widths)[::-1]
        self.input = convolution(channels, sizes[0])
        self.stages, self.transitions = stages(sizes, blocks, expansion, group_width), transitions(sizes)
        self.basis = nn.Parameter(torch.randn(sizes[-1], 4, 4) / 4)
        self.head = ProjectionHead(sizes[-1], label_dim)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        x = self.stages[0](self.input(x))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(transition(avg_pool2d(x, 2)))
        return Verdict([self.head((x.to(self.basis.dtype) * self.basis).sum((2, 3)), labels)])
