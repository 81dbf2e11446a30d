"""Autoencoders of strided convolutions, laid out as DCGAN's networks are, around any bottleneck.

With residual blocks, few halvings and a quantiser this is the network of VQ-VAE (van den Oord et al. 2017, Sec. 4.1);
with none of these and a grid of 1 x 1 it is the usual network of a VAE.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lightning_avatars.networks.autoencoder import GridAutoencoder, QuantizedAutoencoder
from lightning_avatars.networks.layers.bottlenecks import Bottleneck, DiagonalGaussian
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.normalization import LayerNorm2d
from lightning_avatars.networks.layers.quantizers import Quantizer
from lightning_avatars.networks.layers.vectors import FromVector, ToVector


def halved_widths(resolution: int, grid: int, width: int, max_width: int) -> list[int]:
    """Channels at half the resolution, a quarter, … down to ``grid``, or to 4 x 4 if that is 1.

    Raises:
        ValueError: If ``resolution`` or ``grid`` is no power of two, or there is nothing to halve.
    """
    if resolution & (resolution - 1) or not 8 <= resolution <= 512:
        raise ValueError(f"resolution must be a power of two from 8 to 512, got {resolution}: set data.resolution")
    if grid < 1 or grid & (grid - 1) or grid >= resolution:
        raise ValueError(f"grid must be a power of two below the resolution {resolution}, got {grid}")
    if width < 1 or max_width < 1:
        raise ValueError(f"width and max_width must be at least 1, got {width} and {max_width}")
    halvings = (resolution // (4 if grid == 1 else grid)).bit_length() - 1
    return [min(width << i, max_width) for i in range(halvings)]


class Residual(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution beside the identity (VQ-VAE, Sec. 4.1), normalised.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.narrow(silu(self.wide(silu(self.norm(x)))))
        return x + change


class ConvolutionalEncoder(nn.Module):
    """Images to features of a grid through strided convolutions, layer norm and SiLU.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for none.
        features: Channels of the features.
        grid: Height and width of the features.
        width: Channels at half the resolution; they double with each halving.
        max_width: Channels are never more than this.
        blocks: Residual blocks before the features.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        label_dim: int,
        features: int,
        grid: int,
        width: int,
        max_width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        widths = halved_widths(resolution, grid, width, max_width)
        self.first = nn.Conv2d(channels, widths[0], 4, 2, 1)
        self.embedding = LabelEmbedding(label_dim, widths[0]) if label_dim else None
        self.stages = nn.Sequential(nn.SiLU())
        for before, after in pairwise(widths):
            self.stages.extend([nn.Conv2d(before, after, 4, 2, 1), LayerNorm2d(after), nn.SiLU()])
        self.stages.extend(Residual(widths[-1]) for _ in range(blocks))
        self.head = ToVector(widths[-1], features, 4) if grid == 1 else nn.Conv2d(widths[-1], features, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if self.embedding is not None:
            x = x + self.embedding(labels).to(x.dtype)[:, :, None, None]
        features: Tensor = self.head(self.stages(x))
        return features


class ConvolutionalDecoder(nn.Module):
    """Latents of a grid to a likelihood's parameters through transposed convolutions, layer norm and SiLU.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the output.
        label_dim: Length of the label vectors; 0 for none.
        latents: Channels of the latents.
        grid: Height and width of the latents.
        width: Channels at half the resolution; they double with each halving.
        max_width: Channels are never more than this.
        blocks: Residual blocks after the latents.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        label_dim: int,
        latents: int,
        grid: int,
        width: int,
        max_width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        widths = halved_widths(resolution, grid, width, max_width)[::-1]
        self.embedding = LabelEmbedding(label_dim, latents) if label_dim else None
        entering = latents * (2 if label_dim else 1)
        first: nn.ConvTranspose2d | nn.Conv2d
        first = FromVector(entering, widths[0], 4) if grid == 1 else nn.Conv2d(entering, widths[0], 3, padding=1)
        residual = [Residual(widths[0]) for _ in range(blocks)]
        self.stages = nn.Sequential(first, *residual, LayerNorm2d(widths[0]), nn.SiLU())
        for before, after in pairwise(widths):
            self.stages.extend([nn.ConvTranspose2d(before, after, 4, 2, 1), LayerNorm2d(after), nn.SiLU()])
        self.output = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            planes = self.embedding(labels).to(z.dtype)[:, :, None, None].expand_as(z)
            z = torch.cat([z, planes], dim=1)
        output: Tensor = self.output(self.stages(z))
        return output


class ConvolutionalAutoencoder(GridAutoencoder):
    """An autoencoder of strided convolutions.

    Labels are added to the encoder's first features and joined to the decoder's latents, so that latents need not tell
    them (conditional VAE, Sohn et al. 2015). Departure: their prior does not depend on the labels.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 512.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        bottleneck: What makes latents of features; by default ``DiagonalGaussian`` with 128 channels, a VAE.
        parameters_per_channel: Numbers that the likelihood takes for each channel of the images.
        grid: Height and width of the latents: a power of two, 1 for a vector.
        width: Channels at half the resolution; they double with each halving.
        max_width: Channels are never more than this.
        blocks: Residual blocks on either side of the bottleneck.
    """

    decoder: ConvolutionalDecoder

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        bottleneck: Bottleneck | None = None,
        parameters_per_channel: int = 1,
        grid: int = 1,
        width: int = 32,
        max_width: int = 256,
        blocks: int = 0,
    ) -> None:
        bottleneck = bottleneck or DiagonalGaussian(128)
        if isinstance(bottleneck, Quantizer):
            raise ValueError(
                f"ConvolutionalAutoencoder has continuous latents, but its bottleneck is a {type(bottleneck).__name__}"
                ": use lightning_avatars.networks.convolutional.QuantizedConvolutionalAutoencoder"
            )
        super().__init__((bottleneck.width, grid, grid), label_dim)
        self.bottleneck = bottleneck
        sizes = (grid, width, max_width, blocks)
        self.encoder = ConvolutionalEncoder(resolution, channels, label_dim, bottleneck.features, *sizes)
        outputs = channels * parameters_per_channel
        self.decoder = ConvolutionalDecoder(resolution, outputs, label_dim, bottleneck.width, *sizes)

    @property
    def entry(self) -> Tensor | None:
        first = self.decoder.stages[0]
        if not isinstance(first, nn.ConvTranspose2d):
            return None
        return first.weight[: self.latent_dim].flatten(1).T


class QuantizedConvolutionalAutoencoder(QuantizedAutoencoder):
    """An autoencoder of strided convolutions whose latents are words of a codebook.

    Args:
        quantizer: What makes words of features.
        resolution: Height and width of the images: a power of two from 8 to 512.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        parameters_per_channel: Numbers that the likelihood takes for each channel of the images.
        grid: Height and width of the grid of words: a power of two.
        width: Channels at half the resolution; they double with each halving.
        max_width: Channels are never more than this.
        blocks: Residual blocks on either side of the words. The paper has 2.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        parameters_per_channel: int = 1,
        grid: int = 8,
        width: int = 64,
        max_width: int = 256,
        blocks: int = 2,
    ) -> None:
        super().__init__((quantizer.width, grid, grid), quantizer.codebook, label_dim)
        self.quantizer = quantizer
        sizes = (grid, width, max_width, blocks)
        self.encoder = ConvolutionalEncoder(resolution, channels, label_dim, quantizer.features, *sizes)
        outputs = channels * parameters_per_channel
        self.decoder = ConvolutionalDecoder(resolution, outputs, label_dim, quantizer.width, *sizes)
