"""StyleGAN2: demodulated weights, a generator of summed images, a residual discriminator (Karras et al. 2020).

Config F of the paper is ``width: 32`` at 1024 x 1024 and ``width: 128`` at 256 x 256, with the other defaults;
StyleGAN2-ADA (Karras et al. 2020b) has ``width: 64`` at 256 x 256. Published counts of parameters have the learned
constant and the strengths of the noise, not the noise that is kept in buffers.

A convolution with a kernel of its own for each image is an ordinary one between a scaling of its inputs, the style, and
of its outputs, the demodulation: the same numbers, and as fast as a convolution is. He's constant is left out of the
weights, for demodulation takes it away again, and the activation's gain of sqrt 2 is put into what is scaled anyhow.

Departures: labels enter the discriminator by a projection beside the unconditional logit (Miyato and Koyama 2018), with
no mapping of their own, so that images with several labels, or none, have a logit. In float16 what goes into an
activation is clamped to 256, where StyleGAN2-ADA clamps what comes out; the mapping and the discriminator's last layers
are float32.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu

from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.layers.equalized import (
    ROOT_2,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchDeviation,
    activate,
)
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.resampling import Filter
from lightning_avatars.networks.layers.stages import stage_widths
from lightning_avatars.networks.style import Mapping, NoiseMode, StyleGenerator

LARGEST_HALF = 256.0  # of an activation in float16 (StyleGAN2-ADA, Sec. D.1)


def activate_scaled(x: Tensor) -> Tensor:
    """Leaky ReLU of a tensor of one's own that was scaled by sqrt 2 before, in place."""
    if x.dtype == torch.float16:
        x = x.clamp(-LARGEST_HALF, LARGEST_HALF)
    return leaky_relu(x, 0.2, inplace=True)


class Noise(nn.Module):
    """One normal number for each pixel, the same in all channels, times a learned strength.

    Args:
        resolution: Height and width.
        strengths: 1 for all channels, or one for each of so many.
    """

    constant: Tensor

    def __init__(self, resolution: int, strengths: int = 1) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(strengths, 1, 1))
        self.register_buffer("constant", torch.randn(1, 1, resolution, resolution))

    def add(self, x: Tensor, noise: NoiseMode, gain: float = 1.0) -> Tensor:
        """Add noise times ``gain`` to ``x``, in place."""
        if noise == "none":
            return x
        if noise == "constant":
            drawn = self.constant.to(x.dtype)
        else:
            drawn = torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        return x.add_(drawn * (self.strength * gain).to(x.dtype))


class StyledConv2d(nn.Module):
    """A 3 x 3 convolution whose kernel each image's style scales, noise, bias and activation (StyleGAN2, Eqs. 1 and 3).

    Args:
        before: Channels in.
        after: Channels out.
        resolution: Height and width that come out.
        style_dim: Length of the styles.
        up: Whether the images double in height and width.
        noisy: Whether noise is added.
    """

    def __init__(
        self, before: int, after: int, resolution: int, style_dim: int, up: bool = False, noisy: bool = True
    ) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(*(before, after) if up else (after, before), 3, 3))
        self.noise, self.bias = Noise(resolution) if noisy else None, nn.Parameter(torch.zeros(after))
        self.filter = Filter() if up else None
        self.scale = 1 / math.sqrt(before * 9)

    def scales(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the inputs, N x before, and of the outputs, N x after, that give kernels of unit norm."""
        with torch.autocast(style.device.type, enabled=False):
            scales = self.affine(style.to(self.weight.dtype))
            largest = scales.detach().abs().amax(1, keepdim=True) + 1e-8
            scales = scales * (self.scale / largest)  # taken away by the demodulation; keeps float16 in its range
            squares = self.weight.square().sum((2, 3))
            energy = scales.square() @ (squares if self.filter is not None else squares.T)
            return scales, (energy + 1e-8).rsqrt()

    def forward(self, x: Tensor, style: Tensor, noise: NoiseMode) -> Tensor:
        scales, demodulation = self.scales(style)
        x = x * scales.to(x.dtype)[:, :, None, None]
        if self.filter is None:
            x = conv2d(x, self.weight, padding=1)
        else:
            x = self.filter.smooth(conv_transpose2d(x, self.weight, stride=2), padding=1, gain=4)
        factor, shift = (demodulation * ROOT_2).to(x.dtype), (self.bias * ROOT_2).to(x.dtype)
        x = (x * factor[:, :, None, None]).add_(shift[:, None, None])  # back, addcmul would multiply by its 1 as well
        return activate_scaled(x if self.noise is None else self.noise.add(x, noise, ROOT_2))


class ToImage(nn.Module):
    """Colours from features: a 1 x 1 convolution whose kernel the style scales, without demodulation or noise.

    Args:
        before: Channels of the features.
        channels: Channels of the images.
        style_dim: Length of the styles.
    """

    def __init__(self, before: int, channels: int, style_dim: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_dim, before, bias=1.0, gain=1.0)
        self.weight = nn.Parameter(torch.randn(channels, before))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(before)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        with torch.autocast(style.device.type, enabled=False):
            scales = self.affine(style.to(self.weight.dtype)) * self.scale
            kernels = self.weight * scales[:, None]  # N x channels x before
        image: Tensor = (kernels.to(x.dtype) @ x.flatten(2)).to(self.bias.dtype)
        return image.view(len(x), -1, *x.shape[2:]) + self.bias[:, None, None]


class SynthesisStage(nn.Module):
    """The layers of one resolution, and the image that they add to.

    Args:
        before: Channels in.
        after: Channels out.
        resolution: Height and width that come out.
        channels: Channels of the images.
        style_dim: Length of the styles.
        noisy: Whether the convolutions add noise.
    """

    def __init__(
        self, before: int, after: int, resolution: int, channels: int, style_dim: int, noisy: bool = True
    ) -> None:
        super().__init__()
        layers = [StyledConv2d(after, after, resolution, style_dim, noisy=noisy)]
        if resolution > 4:
            layers.insert(0, StyledConv2d(before, after, resolution, style_dim, up=True, noisy=noisy))
        self.layers = nn.ModuleList(layers)
        self.to_image = ToImage(after, channels, style_dim)
        self.filter = Filter()

    def forward(
        self, x: Tensor, image: Tensor | None, styles: tuple[Tensor, ...], noise: NoiseMode
    ) -> tuple[Tensor, Tensor]:
        for layer, style in zip(self.layers, styles[:-1], strict=True):
            x = layer(x, style, noise)
        added: Tensor = self.to_image(x, styles[-1])
        return x, added if image is None else self.filter.up(image) + added


class StyleGAN2Generator(StyleGenerator):
    """A learned constant through styled convolutions; the image is the sum of those that each resolution makes.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors.
        style_dim: Length of the styles.
        width: Channels at the full resolution; they double with each halving. Config F has 32 at 1024 x 1024.
        max_width: Channels are never more than this.
        mapping_layers: Layers of the mapping network.
        style_mixing: Share of the images that are made of two latents while training.
        noisy: Whether each convolution adds noise, for details that are as good in one place as in another.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 512,
        style_dim: int = 512,
        width: int = 64,
        max_width: int = 512,
        mapping_layers: int = 8,
        style_mixing: float = 0.9,
        noisy: bool = True,
    ) -> None:
        widths = stage_widths(resolution, width, max_width)
        mapping = Mapping(latent_dim, style_dim, label_dim, mapping_layers)
        super().__init__(mapping, latent_dim, style_dim, label_dim, 2 * len(widths), style_mixing)
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.stages = nn.ModuleList(
            SynthesisStage(before, after, 4 << i, channels, style_dim, noisy)
            for i, (before, after) in enumerate(pairwise([widths[0], *widths]))
        )

    def synthesis(self, styles: Tensor, noise: NoiseMode = "random") -> Tensor:
        each = styles.unbind(1)
        x = self.constant.expand(len(styles), -1, -1, -1)
        image: Tensor | None = None
        for i, stage in enumerate(self.stages):  # the image's layer shares its style with the next stage's first
            x, image = stage(x, image, each[max(2 * i - 1, 0) : 2 * i + 2], noise)
        assert image is not None
        return image


class ActivatedConv2d(EqualizedConv2d):
    """An equalised convolution, filtered and with stride 2 where it halves its images, and its activation.

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Height and width of the kernel, odd.
        down: Whether the images are halved.
        gain: Factor of what comes out.
    """

    def __init__(self, before: int, after: int, kernel: int = 3, down: bool = False, gain: float = 1.0) -> None:
        super().__init__(before, after, kernel, gain=gain * ROOT_2)
        self.gain, self.filter = gain * ROOT_2, Filter() if down else None

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        weight, bias = self.weight * self.scale, self.bias * self.gain
        if self.filter is not None:
            x = conv2d(self.filter.smooth(x, padding=2), weight, bias, stride=2)
        else:
            x = conv2d(x, weight, bias, padding=self.padding)
        return activate_scaled(x)


class Block(nn.Module):
    """Two convolutions, the second of which halves the images.

    Args:
        before: Channels in.
        after: Channels out.
        gain: Factor of what comes out.
    """

    def __init__(self, before: int, after: int, gain: float = 1.0) -> None:
        super().__init__()
        self.first = ActivatedConv2d(before, before)
        self.second = ActivatedConv2d(before, after, down=True, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


class ResidualBlock(Block):
    """A block beside a filtered 1 x 1 convolution, of which each gives half the variance.

    Args:
        before: Channels in.
        after: Channels out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, gain=1 / ROOT_2)
        self.skip = EqualizedConv2d(before, after, kernel=1, bias=False, gain=1 / ROOT_2)
        self.filter = Filter()

    def forward(self, x: Tensor) -> Tensor:
        skipped: Tensor = self.skip(self.filter.down(x))
        return skipped + super().forward(x)


class StyleHead(nn.Module):
    """One logit from 4 x 4 features and how they differ within groups of images, in float32.

    Args:
        width: Channels of the features.
        label_dim: Length of the label vectors; 0 for none.
        group: Images of a group.
    """

    def __init__(self, width: int, label_dim: int = 0, group: int = 4) -> None:
        super().__init__()
        self.deviation = MinibatchDeviation(group)
        self.conv = ActivatedConv2d(width + 1, width)
        self.linear = EqualizedLinear(width * 16, width)
        self.logit = EqualizedLinear(width, 1)
        self.embedding = LabelEmbedding(label_dim, width) if label_dim else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = self.conv(self.deviation(x.to(self.conv.weight.dtype)))
            x = activate(self.linear(x.flatten(1)))
            logits: Tensor = self.logit(x).squeeze(1)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * x).sum(1) * self.logit.scale
            return logits


class StyleGAN2Discriminator(Discriminator):
    """Residual blocks down to 4 x 4 and a head that compares the images of a group.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at the full resolution; they double with each halving. Config F has 32 at 1024 x 1024.
        max_width: Channels are never more than this.
        group: Images of a group whose differences are seen.
    """

    block: type[Block] = ResidualBlock

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 64,
        max_width: int = 512,
        group: int = 4,
    ) -> None:
        super().__init__(label_dim)
        widths = stage_widths(resolution, width, max_width)[::-1]
        self.input = ActivatedConv2d(channels, widths[0], kernel=1)
        self.stages = nn.ModuleList(self.block(before, after) for before, after in pairwise(widths))
        self.head = StyleHead(widths[-1], label_dim, group)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        x = self.input(x)
        for stage in self.stages:
            x = stage(x)
        return Verdict([self.head(x, labels)])
