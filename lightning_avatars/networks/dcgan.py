"""DCGAN: strided convolutions and batch norm (Radford et al. 2015), with labels for whoever wants them.

A generator joins an embedding of its labels to the latent; a discriminator has a projection head (Miyato and Koyama
2018), whose weights start, unlike the others', with a variance of one over its inputs. Each side grows by doubling:
4 x 4 with many channels on one end, ``resolution`` with few on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.labels import LabelEmbedding, ProjectionHead
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.networks.layers.stages import at_least_one, doublings


def stage_widths(resolution: int, width: int, max_width: int) -> list[int]:
    """Channels at 4 x 4, 8 x 8, … up to half the resolution."""
    at_least_one(width=width, max_width=max_width)
    stages = doublings(resolution, lowest=16, highest=256)
    return [min(width << i, max_width) for i in reversed(range(stages))]


def initialise(module: nn.Module) -> None:
    """Draw convolutions and the generator's first layer from N(0, 0.02), and scales of norms from N(1, 0.02)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)) and module.affine:
        nn.init.normal_(module.weight, mean=1.0, std=0.02)


class DCGANGenerator(Generator):
    """Latent vectors to images through transposed convolutions, batch norm, ReLU and tanh.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 256.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors.
        width: Channels at half the resolution; they double with each halving. The paper has 128 at 64 x 64.
        max_width: Channels are never more than this. The paper has 1024.
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
        widths = stage_widths(resolution, width, max_width)
        self.first = nn.Linear(latent_dim * (2 if label_dim else 1), widths[0] * 16, bias=False)
        self.stages = nn.Sequential(BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        for before, after in pairwise(widths):
            self.stages.extend(
                [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), BatchNorm2d(after), nn.ReLU(inplace=True)]
            )
        self.output = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)
        self.apply(initialise)
        self.embedding = LabelEmbedding(label_dim, latent_dim) if label_dim else None

    @property
    def entry(self) -> Tensor:
        return self.first.weight[:, : self.latent_dim]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = z if self.embedding is None else torch.cat([z, self.embedding(labels).to(z.dtype)], dim=1)
        image: Tensor = self.output(self.stages(self.first(x).unflatten(1, (-1, 4, 4))))
        return image.to(z.dtype).tanh()


class DCGANDiscriminator(Discriminator):
    """Images to one logit through strided convolutions and leaky ReLU.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 256.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at half the resolution; they double with each halving. The paper has 128 at 64 x 64.
        max_width: Channels are never more than this. The paper has 1024.
        normalization: Makes the norm between two convolutions from its number of channels. Batch norm mixes the images
            of a batch and must not meet a gradient penalty: ``LayerNorm2d`` or ``torch.nn.InstanceNorm2d`` may, and
            ``torch.nn.Identity`` is none.
        head: Makes the last layer from its number of features and ``label_dim``: a logit that depends on labels, or a
            ``ClassHead`` (ACGAN) or ``CodeHead`` (InfoGAN).
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 32,
        max_width: int = 512,
        normalization: Callable[[int], nn.Module] = BatchNorm2d,
        head: Callable[[int, int], ProjectionHead] = ProjectionHead,
    ) -> None:
        super().__init__(label_dim)
        widths = stage_widths(resolution, width, max_width)[::-1]
        self.stages = nn.Sequential(nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))
        for before, after in pairwise(widths):
            norm = normalization(after)
            convolution = nn.Conv2d(before, after, 4, 2, 1, bias=isinstance(norm, nn.Identity))
            self.stages.extend([convolution, norm, nn.LeakyReLU(0.2, inplace=True)])
        self.apply(initialise)
        self.head = head(widths[-1] * 16, label_dim)  # a 4 x 4 convolution to one logit

    @property
    def heads(self) -> dict[str, int]:
        return self.head.heads

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return self.head.verdict(self.stages(x).flatten(1), labels)
