"""StyleGAN: styles set the mean and the deviation of each channel, by AdaIN, after every layer (Karras et al. 2019).

The paper's widths are ``width: 16`` at 1024 x 1024 and ``width: 64`` at 256 x 256, with the other defaults.

Departures: nothing grows. Whole networks train from the start, as in the first column of StyleGAN2's Table 2, whose
authors found growing to tie details to places; ``progressive.py`` grows. Upsampling is a transposed convolution and
the filter [1, 3, 3, 1], which is what doubling, a 3 x 3 convolution and [1, 2, 1] come to, but for the edge. The
constant starts with normal numbers, as StyleGAN2's, for AdaIN divides one of ones by its deviation of zero. The
discriminator is StyleGAN2's without skip connections, labels included. Published counts of parameters have a layer to
or from colours for each resolution.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, leaky_relu

from lightning_avatars.networks.layers.equalized import ROOT_2, EqualizedConv2d, EqualizedLinear
from lightning_avatars.networks.layers.resampling import Filter
from lightning_avatars.networks.layers.stages import stage_widths
from lightning_avatars.networks.style import Mapping, NoiseMode, StyleGenerator
from lightning_avatars.networks.stylegan2 import Block, Noise, StyleGAN2Discriminator


class Standardize(torch.autograd.Function):
    """Bring each channel of each image to mean 0 and deviation 1; twice as fast as autograd finds the gradient.

    Beside the result, it returns what the deviation was divided out with, so that its gradient can be derived again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        centred = x - x.mean((2, 3), keepdim=True)
        factor = (centred.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()
        normal = centred * factor
        ctx.save_for_backward(normal, factor)
        return normal, factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, factor_gradient: Tensor) -> Tensor:  # noqa: ANN401
        normal, factor = ctx.saved_tensors
        pixels = normal.shape[2] * normal.shape[3]
        along = (gradient * normal).mean((2, 3), keepdim=True) + factor_gradient * factor / pixels
        result: Tensor = factor * (gradient - gradient.mean((2, 3), keepdim=True) - normal * along)
        return result


class AdaptiveNorm(nn.Module):
    """Give each channel of each image the mean and deviation that its style asks for (StyleGAN, Eq. 1).

    Args:
        channels: Channels of the features.
        style_dim: Length of the styles.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_dim, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = self.affine(style.to(self.affine.weight.dtype)).chunk(2, 1)
            normal, _ = Standardize.apply(x.to(scale.dtype))
            return torch.addcmul(shift[:, :, None, None], normal, scale[:, :, None, None] + 1).to(x.dtype)


class UpConv2d(EqualizedConv2d):
    """An equalised 3 x 3 convolution that doubles its images, and the filter that smooths them.

    Args:
        before: Channels in.
        after: Channels out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, bias=False, gain=ROOT_2)
        self.filter = Filter()

    def forward(self, x: Tensor) -> Tensor:
        x = conv_transpose2d(x, self.weight.transpose(0, 1) * self.scale, stride=2)
        return self.filter.smooth(x, padding=1, gain=4)


class NormedLayer(nn.Module):
    """A convolution, noise, a bias, the activation and AdaIN.

    Args:
        convolution: What makes the features; the identity for the learned constant.
        channels: Channels that come out.
        resolution: Height and width that come out.
        style_dim: Length of the styles.
        noisy: Whether noise is added.
    """

    def __init__(self, convolution: nn.Module, channels: int, resolution: int, style_dim: int, noisy: bool) -> None:
        super().__init__()
        self.convolution, self.noise = convolution, Noise(resolution, channels) if noisy else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = AdaptiveNorm(channels, style_dim)

    def forward(self, x: Tensor, style: Tensor, noise: NoiseMode) -> Tensor:
        x = self.convolution(x)
        x = x + self.bias.to(x.dtype)[:, None, None]
        if self.noise is not None:
            x = self.noise.add(x, noise)
        y: Tensor = self.norm(leaky_relu(x, 0.2, inplace=True), style)
        return y


class SynthesisStage(nn.Module):
    """The two layers of one resolution.

    Args:
        before: Channels in.
        after: Channels out.
        resolution: Height and width that come out.
        style_dim: Length of the styles.
        noisy: Whether the layers add noise.
    """

    def __init__(self, before: int, after: int, resolution: int, style_dim: int, noisy: bool) -> None:
        super().__init__()
        first = UpConv2d(before, after) if resolution > 4 else nn.Identity()
        second = EqualizedConv2d(after, after, bias=False, gain=ROOT_2)
        self.first = NormedLayer(first, after, resolution, style_dim, noisy)
        self.second = NormedLayer(second, after, resolution, style_dim, noisy)

    def forward(self, x: Tensor, first: Tensor, second: Tensor, noise: NoiseMode) -> Tensor:
        y: Tensor = self.second(self.first(x, first, noise), second, noise)
        return y


class StyleGAN1Generator(StyleGenerator):
    """A learned constant through convolutions, each followed by noise and AdaIN.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors.
        style_dim: Length of the styles.
        width: Channels at the full resolution; they double with each halving. The paper has 16 at 1024 x 1024.
        max_width: Channels are never more than this.
        mapping_layers: Layers of the mapping network.
        style_mixing: Share of the images that are made of two latents while training.
        noisy: Whether each layer adds noise, for details that are as good in one place as in another.
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
            SynthesisStage(before, after, 4 << i, style_dim, noisy)
            for i, (before, after) in enumerate(pairwise([widths[0], *widths]))
        )
        self.output = EqualizedConv2d(widths[-1], channels, kernel=1)

    def synthesis(self, styles: Tensor, noise: NoiseMode = "random") -> Tensor:
        each = styles.unbind(1)
        x = self.constant.expand(len(styles), -1, -1, -1)
        for i, stage in enumerate(self.stages):
            x = stage(x, each[2 * i], each[2 * i + 1], noise)
        image: Tensor = self.output(x)
        return image.to(self.constant.dtype)


class StyleGAN1Discriminator(StyleGAN2Discriminator):
    """ProGAN's discriminator with filtered downsampling: blocks down to 4 x 4, and a head that compares images.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at the full resolution; they double with each halving. The paper has 16 at 1024 x 1024.
        max_width: Channels are never more than this.
        group: Images of a group whose differences are seen.
    """

    block = Block
