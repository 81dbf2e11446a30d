"""The convolutional autoencoder of VQGAN (Esser et al. 2021, Table 7) and of latent diffusion (Rombach et al. 2022).

Residual blocks with group norm, and attention at low resolutions. Published sizes at 256 x 256: width 128, multipliers
1 1 2 2 4, two blocks, attention at 16, 1,024 words of length 256 (``vqgan_imagenet_f16_1024``).

Departures: a group of a norm has four channels or more, where the paper has 32 groups of four channels or more; the
1 x 1 convolutions around the codebook are parts of the 3 x 3 ones beside them; labels, where there are any, are added
to the features at the lowest resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from lightning_avatars.networks.autoencoder import GridAutoencoder, QuantizedAutoencoder
from lightning_avatars.networks.layers.bottlenecks import Bottleneck, DiagonalGaussian
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.quantizers import Quantizer, VectorQuantizer


def norm(channels: int) -> nn.GroupNorm:
    """Make a norm of groups of four channels or more, 32 at most."""
    return nn.GroupNorm(math.gcd(32, channels // 4), channels, eps=1e-6)


class Residual(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        before: Channels that come in.
        after: Channels that go out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return torch.add(self.shortcut(x), h)


class Attention(nn.Module):
    """Each place looks at all others, beside a shortcut (Esser et al. 2021, after Vaswani et al. 2017); one head.

    Keys' biases would change nothing: these and those beside them are left out.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.look = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.look(self.norm(x)).flatten(2).mT[:, None].chunk(3, dim=-1)
        seen = scaled_dot_product_attention(query, key, value)[:, 0]
        return torch.add(x, self.output(seen.mT.reshape(x.shape)))


class Down(nn.Module):
    """Halve height and width by a convolution with stride two.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return halved


class Up(nn.Module):
    """Double height and width: each place becomes four, then a convolution.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(interpolate(x, scale_factor=2.0))
        return doubled


def middle(channels: int) -> list[nn.Module]:
    """Make the layers at the lowest resolution."""
    return [Residual(channels, channels), Attention(channels), Residual(channels, channels)]


def level(before: int, after: int, blocks: int, attends: bool) -> list[nn.Module]:
    """Make the blocks of one resolution."""
    layers: list[nn.Module] = []
    for number in range(blocks):
        layers.append(Residual(after if number else before, after))
        if attends:
            layers.append(Attention(after))
    return layers


class Encoder(nn.Module):
    """Images, N C H W, to features for a bottleneck, N F h w.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors.
        features: Channels of the features.
        widths: Channels at each resolution, from the images' on downwards.
        blocks: Residual blocks at each resolution.
        attention: Resolutions whose blocks are each followed by attention.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        label_dim: int,
        features: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
    ) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.Sequential(*level(widths[0], widths[0], blocks, resolution in attention))
        for number, (before, after) in enumerate(pairwise(widths), 1):
            self.stages.extend([Down(before), *level(before, after, blocks, resolution >> number in attention)])
        self.embedding = LabelEmbedding(label_dim, widths[-1]) if label_dim else None
        self.middle = nn.Sequential(*middle(widths[-1]))
        self.norm, self.output = norm(widths[-1]), nn.Conv2d(widths[-1], features, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stages(self.input(x))
        if self.embedding is not None:
            x = x + self.embedding(labels).to(x.dtype)[:, :, None, None]
        features: Tensor = self.output(silu(self.norm(self.middle(x))))
        return features


class Decoder(nn.Module):
    """Latents, N D h w, to the numbers of a likelihood, N (channels x parameters) H W, without a bound.

    Args:
        resolution: Height and width of the images.
        outputs: Channels of the output.
        label_dim: Length of the label vectors.
        latents: Channels of the latents.
        widths: Channels at each resolution, from the images' on downwards.
        blocks: Residual blocks at each resolution; there is one more, as in the paper.
        attention: Resolutions whose blocks are each followed by attention.
    """

    def __init__(
        self,
        resolution: int,
        outputs: int,
        label_dim: int,
        latents: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
    ) -> None:
        super().__init__()
        widths = list(reversed(widths))
        smallest = resolution >> (len(widths) - 1)
        self.input = nn.Conv2d(latents, widths[0], 3, padding=1)
        self.embedding = LabelEmbedding(label_dim, widths[0]) if label_dim else None
        self.middle = nn.Sequential(*middle(widths[0]))
        self.stages = nn.Sequential(*level(widths[0], widths[0], blocks + 1, smallest in attention))
        for number, (before, after) in enumerate(pairwise(widths), 1):
            self.stages.extend([Up(before), *level(before, after, blocks + 1, smallest << number in attention)])
        self.norm, self.output = norm(widths[-1]), nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.input(latents)
        if self.embedding is not None:
            x = x + self.embedding(labels).to(x.dtype)[:, :, None, None]
        output: Tensor = self.output(silu(self.norm(self.stages(self.middle(x)))))
        return output


def layout(resolution: int, width: int, multipliers: Sequence[int], blocks: int) -> tuple[list[int], int]:
    """Return the channels at each resolution and the side of the grid of latents.

    Raises:
        ValueError: There is no such network.
    """
    if width < 4 or width % 4 or blocks < 1 or not multipliers or min(multipliers) < 1:
        raise ValueError(
            f"width must be a multiple of 4, blocks and multipliers at least 1; got width {width}, blocks {blocks} and "
            f"multipliers {list(multipliers)}"
        )
    halvings = len(multipliers) - 1
    if resolution % (1 << halvings) or resolution >> halvings < 2:
        raise ValueError(
            f"{len(multipliers)} multipliers halve the resolution {halvings} times, and what is left must be whole and "
            f"at least 2; the resolution is {resolution}: give fewer multipliers"
        )
    return [width * multiplier for multiplier in multipliers], resolution >> halvings


class KLAutoencoder(GridAutoencoder):
    """An autoencoder with a grid of continuous latents (Rombach et al. 2022, Sec. 3.1).

    Args:
        resolution: Height and width of the images; it must be halved evenly by each multiplier but the first.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        bottleneck: What the latents are drawn by; by default independent normal latents in four channels.
        width: Channels at the images' resolution, times the first multiplier.
        multipliers: Factors of the width at each resolution, from the images' on downwards.
        blocks: Residual blocks at each resolution; the decoder has one more.
        attention: Resolutions whose blocks are each followed by attention; the lowest always has one.
        parameters_per_channel: Numbers that the likelihood wants for each channel of each pixel; 1 is an image.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        bottleneck: Bottleneck | None = None,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        attention: Sequence[int] = (),
        parameters_per_channel: int = 1,
    ) -> None:
        bottleneck = DiagonalGaussian(4) if bottleneck is None else bottleneck
        if isinstance(bottleneck, Quantizer):
            raise ValueError(
                f"KLAutoencoder has continuous latents, but its bottleneck is a {type(bottleneck).__name__}: use "
                "lightning_avatars.networks.vqgan.VQGAN"
            )
        widths, side = layout(resolution, width, multipliers, blocks)
        super().__init__((bottleneck.width, side, side), label_dim)
        self.encoder = Encoder(resolution, channels, label_dim, bottleneck.features, widths, blocks, attention)
        self.bottleneck = bottleneck
        outputs = channels * parameters_per_channel
        self.decoder = Decoder(resolution, outputs, label_dim, bottleneck.width, widths, blocks, attention)


class VQGAN(QuantizedAutoencoder):
    """An autoencoder with a grid of words (Esser et al. 2021, Sec. 3.1).

    Args:
        resolution: Height and width of the images; it must be halved evenly by each multiplier but the first.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        quantizer: The codebook; by default 512 words of length 64.
        width: Channels at the images' resolution, times the first multiplier.
        multipliers: Factors of the width at each resolution, from the images' on downwards.
        blocks: Residual blocks at each resolution; the decoder has one more.
        attention: Resolutions whose blocks are each followed by attention; the lowest always has one.
        parameters_per_channel: Numbers that the likelihood wants for each channel of each pixel; 1 is an image.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        quantizer: Quantizer | None = None,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        attention: Sequence[int] = (),
        parameters_per_channel: int = 1,
    ) -> None:
        quantizer = VectorQuantizer() if quantizer is None else quantizer
        widths, side = layout(resolution, width, multipliers, blocks)
        super().__init__((quantizer.width, side, side), quantizer.codebook, label_dim)
        self.encoder = Encoder(resolution, channels, label_dim, quantizer.features, widths, blocks, attention)
        self.quantizer = quantizer
        outputs = channels * parameters_per_channel
        self.decoder = Decoder(resolution, outputs, label_dim, quantizer.width, widths, blocks, attention)
