"""Residual networks of WGAN-GP (Gulrajani et al. 2017, Appendix C) and SNGAN (Miyato et al. 2018, Tables 4 and 5).

Published sizes at 32 x 32: SNGAN has width and max_width 256 in the generator and 128 in the discriminator, WGAN-GP 128
in both. At 128 x 128 SNGAN has width 64 and max_width 1024 in both, with ``smallest: 4`` and ``blocks: 1``. Labels are
given to the generator's batch norms and to a projection head (Miyato and Koyama 2018).

Departures: convolutions of shortcuts run at the smaller of the two resolutions, where they give the same; WGAN-GP's
networks for 64 x 64 and more are laid out as those for 32 x 32 are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.labels import LabelEmbedding, ProjectionHead
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.networks.layers.spectral import add_spectral_norm
from lightning_avatars.networks.layers.stages import at_least_one, doublings, stage_widths


def convolution(before: int, after: int, kernel: int = 3, gain: float = math.sqrt(2)) -> nn.Conv2d:
    """Make a convolution that keeps the size, with Glorot's weights."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class LabelledBatchNorm2d(nn.Module):
    """Batch norm whose scales and shifts depend on labels, where there are any (de Vries et al. 2017, Sec. 3).

    Args:
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for one scale and one shift.
    """

    def __init__(self, channels: int, label_dim: int = 0) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=not label_dim)
        self.embedding = LabelEmbedding(label_dim, 2 * channels, std=0.0) if label_dim else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        if self.embedding is None:
            return y
        scale, shift = self.embedding(labels).to(y.dtype)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(y + shift, y, scale)


class Up(nn.Module):
    """A residual block that doubles height and width.

    Args:
        before: Channels in.
        after: Channels out.
        label_dim: Length of the label vectors; 0 for none.
    """

    def __init__(self, before: int, after: int, label_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([LabelledBatchNorm2d(before, label_dim), LabelledBatchNorm2d(after, label_dim)])
        self.convolutions = nn.ModuleList([convolution(before, after), convolution(after, after)])
        self.shortcut = convolution(before, after, 1, gain=1.0)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        y: Tensor = relu(self.norms[0](x, labels))
        y = self.convolutions[0](interpolate(y, scale_factor=2))
        y = self.convolutions[1](relu(self.norms[1](y, labels)))
        skipped: Tensor = self.shortcut(x)
        return y + interpolate(skipped, scale_factor=2)


class ResNetGenerator(Generator):
    """Latent vectors to images through residual blocks with batch norm.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 128,
        width: int = 32,
        max_width: int = 512,
    ) -> None:
        super().__init__(latent_dim, label_dim)
        widths = stage_widths(resolution, width, max_width, 16, 1024)
        self.first = nn.Linear(latent_dim, widths[0] * 16)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        self.stages = nn.ModuleList(Up(before, after, label_dim) for before, after in pairwise(widths))
        self.norm = BatchNorm2d(widths[-1])
        self.output = convolution(widths[-1], channels, gain=1.0)

    @property
    def entry(self) -> Tensor:
        return self.first.weight

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(z).unflatten(1, (-1, 4, 4))
        for stage in self.stages:
            x = stage(x, labels)
        image: Tensor = self.output(relu(self.norm(x)))
        return image.to(z.dtype).tanh()


class Down(nn.Module):
    """A residual block that may halve height and width.

    Args:
        before: Channels in.
        after: Channels out.
        normalization: Makes the norm before each convolution from its number of channels.
        halves: Whether it halves height and width.
        first: Whether it is given an image, which is neither normalised nor activated.
    """

    def __init__(
        self, before: int, after: int, normalization: Callable[[int], nn.Module], halves: bool, first: bool = False
    ) -> None:
        super().__init__()
        self.halves, self.first = halves, first
        self.norms = nn.ModuleList([nn.Identity() if first else normalization(before), normalization(after)])
        self.convolutions = nn.ModuleList([convolution(before, after), convolution(after, after)])
        self.shortcut = convolution(before, after, 1, gain=1.0) if halves or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.first else relu(self.norms[0](x))
        y = self.convolutions[1](relu(self.norms[1](self.convolutions[0](y))))
        skipped: Tensor = self.shortcut(avg_pool2d(x, 2) if self.halves else x)
        return skipped + (avg_pool2d(y, 2) if self.halves else y)


class ResNetDiscriminator(Discriminator):
    """Images to one logit through residual blocks and a pool over all pixels.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at half the resolution; they double with each halving.
        max_width: Channels are never more than this.
        smallest: Height and width at which halving ends: 4 or 8.
        blocks: Residual blocks at that size.
        spectral: Divide weights by their largest singular value (SNGAN), and add up pixels where a critic without a
            bound on its weights takes their mean (WGAN-GP).
        normalization: Makes the norm before a convolution from its number of channels; a gradient penalty may meet
            ``LayerNorm2d``, but no batch norm.
        head: Makes the last layer from its number of features and ``label_dim``.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 32,
        max_width: int = 512,
        smallest: int = 8,
        blocks: int = 2,
        spectral: bool = False,
        normalization: Callable[[int], nn.Module] = nn.Identity,
        head: Callable[[int, int], ProjectionHead] = ProjectionHead,
    ) -> None:
        super().__init__(label_dim)
        if smallest not in (4, 8):
            raise ValueError(f"smallest is the height at which halving ends and must be 4 or 8, got {smallest}")
        halvings = doublings(resolution, lowest=16, highest=1024) - (smallest == 8)
        at_least_one(width=width, max_width=max_width)
        widths = [min(width << i, max_width) for i in range(halvings)]
        self.stages = nn.Sequential(Down(channels, widths[0], normalization, halves=True, first=True))
        self.stages.extend(Down(before, after, normalization, halves=True) for before, after in pairwise(widths))
        self.stages.extend(Down(widths[-1], widths[-1], normalization, halves=False) for _ in range(blocks))
        self.spectral = spectral
        self.head = head(widths[-1], label_dim)
        if spectral:
            add_spectral_norm(self)

    @property
    def heads(self) -> dict[str, int]:
        return self.head.heads

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        y = relu(self.stages(x))
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        return self.head.verdict(y.sum((2, 3)) if self.spectral else y.mean((2, 3)), labels)
