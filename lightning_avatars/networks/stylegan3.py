"""StyleGAN3: a generator without aliasing (Karras et al. 2021, "Alias-Free Generative Adversarial Networks").

Each layer works on a signal with a known band: a grid of Fourier features that a style rotates and moves, then
modulated convolutions, each followed by a leaky ReLU at twice the rate between two low-pass filters. What goes in moved
comes out moved (T), and what goes in turned comes out turned too (R: 1 x 1 convolutions, and filters that treat all
directions alike). There is no noise and no skip; the last two layers and the picture are sampled critically. The
discriminator is StyleGAN2's.

Published sizes, all with 14 layers and margins of 10 pixels: T ``width: 32`` at 1024 x 1024, 128 at 256 x 256,
``max_width: 512``; R twice that, ``max_width: 1024``. The ablations at 256 x 256 have half of these widths, not maxima.

Departures: convolutions pad with zeros to keep the size, where the published code pads by a pixel more, which only
reaches the margin; weights are not normalised before the convolution, for demodulation undoes it; inputs are divided by
the magnitudes of the batches before, the same for all processes; labels are embedded as in the other networks here;
frequencies are drawn uniformly from their disc; only float16 is clamped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from lightning_avatars.networks.layers.equalized import EqualizedLinear
from lightning_avatars.networks.layers.filters import FilteredLeakyReLU, positions
from lightning_avatars.networks.layers.stages import at_least_one, doublings
from lightning_avatars.networks.style import Mapping, NoiseMode, StyleGenerator, share_of_batch

CRITICAL = 2  # layers at the end that leave no room between their band and half their rate
CUTOFF, STOPBAND = 2.0, 2**2.1  # of the first layer, in cycles per picture (Sec. 3.2)
LAST_STOPBAND = 2**0.3  # of the last layer, in units of its cutoff
HALF_LIFE = 20_000  # images, of the running magnitudes (Sec. B)
PICTURE_GAIN = 0.25


class Band(NamedTuple):
    """The band of one layer's output, in cycles per picture, and how it is sampled."""

    cutoff: float
    half_width: float
    rate: int
    size: int
    width: int


def bands(resolution: int, layers: int, margin: int, width: int, max_width: int) -> list[Band]:
    """Lay out the layers and the picture: cutoffs and stopbands in geometric progression (Sec. 3.2, Eq. 4).

    Args:
        resolution: Height and width of the pictures.
        layers: Layers before the picture is made.
        margin: Pixels beyond each edge, but for the critically sampled layers.
        width: Channels where the cutoff is that of the full resolution; they grow as the cutoff falls.
        max_width: Channels are never more than this.
    """
    at_least_one(width=width, max_width=max_width)
    last, laid = resolution / 2, []
    for i in range(layers + 1):
        share = min(i / (layers - CRITICAL), 1)
        cutoff = CUTOFF * (last / CUTOFF) ** share
        stopband = STOPBAND * (last * LAST_STOPBAND / STOPBAND) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, resolution)))
        size = rate + (2 * margin if i < layers - 1 else 0)
        laid.append(
            Band(cutoff, max(rate / 2, stopband) - cutoff, rate, size, min(round(width * last / cutoff), max_width))
        )
    return laid


class FourierFeatures(nn.Module):
    """Waves of random frequency, direction and phase, turned and moved by a style, then mixed (Sec. 3, F).

    Args:
        band: How the features are sampled, and the band of their frequencies.
        style_dim: Length of the styles.
    """

    frequencies: Tensor
    phases: Tensor
    at: Tensor

    def __init__(self, band: Band, style_dim: int) -> None:
        super().__init__()
        self.band = band
        length, angle = band.cutoff * torch.rand(band.width).sqrt(), 2 * math.pi * torch.rand(band.width)
        self.register_buffer("frequencies", length[:, None] * torch.stack([angle.cos(), angle.sin()], 1))
        self.register_buffer("phases", torch.rand(band.width))
        self.affine = EqualizedLinear(style_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # type: ignore[union-attr]
        self.mixing = EqualizedLinear(band.width, band.width, bias=None)
        self.register_buffer("at", positions(band.size, band.rate).float(), persistent=False)

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        turn, move = self.affine(w).split(2, 1)
        length = turn.norm(dim=1, keepdim=True).clamp(min=1e-12)
        (cosine, sine), move = (turn / length).unbind(1), move / length
        rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        matrix = rotation @ transform[..., :2, :2]
        offset = rotation @ (transform[..., :2, 2] - move)[..., None]  # N 2 1
        frequencies = self.frequencies @ matrix  # N C 2
        phases = self.phases + (self.frequencies @ offset)[..., 0]  # N C
        room = self.band.rate / 2 - self.band.cutoff  # what a transform lifts beyond half the rate is faded out
        strength = ((self.band.rate / 2 - frequencies.norm(dim=2)) / room).clamp(0, 1)
        along_x = self.at[:, None] * frequencies[:, None, :, 0]  # N W C
        along_y = self.at[:, None] * frequencies[:, None, :, 1] + phases[:, None]  # N H C
        waves = torch.sin(2 * math.pi * (along_x[:, None] + along_y[:, :, None]))
        features: Tensor = self.mixing(waves * strength[:, None, None])
        return features.permute(0, 3, 1, 2)


class Modulated(nn.Module):
    """A convolution whose weights a style scales, of inputs brought to a mean square of one (Sec. B).

    Args:
        before: Channels in.
        after: Channels out.
        style_dim: Length of the styles.
        kernel: Height and width of the kernel, odd.
        demodulate: Whether weights are brought to unit norm after the style has scaled them.
    """

    magnitude: Tensor

    def __init__(self, before: int, after: int, style_dim: int, kernel: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        self.affine = EqualizedLinear(style_dim, before, bias=1.0)
        self.register_buffer("magnitude", torch.ones(()))  # the mean square of what comes in
        self.scale, self.padding, self.demodulate = 1 / math.sqrt(before * kernel**2), kernel // 2, demodulate

    def follow(self, x: Tensor) -> Tensor:
        """Return the running magnitude and, where the generator learns, move it towards that of ``x``.

        Not in ``forward``, which may be computed again: then it needs what it was given the first time.
        """
        before = self.magnitude.clone()
        if self.training and torch.is_grad_enabled():
            length = torch.linalg.vector_norm(x.detach(), dtype=torch.promote_types(x.dtype, torch.float32))
            self.magnitude.lerp_((length.square() / x.numel()).to(before.dtype), share_of_batch(len(x), HALF_LIFE))
        return before

    def forward(self, x: Tensor, w: Tensor, magnitude: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            style, weight = self.affine(w), self.weight * self.scale
            gain = torch.ones((), device=x.device)
            if self.demodulate:  # StyleGAN2, Eq. 3
                style = style / (style.detach().abs().amax(1, keepdim=True) + 1e-8)  # keeps float16 in its range
                gain = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()[:, :, None, None]
            style = style * magnitude.rsqrt()
        x = conv2d(x * style[:, :, None, None].to(x.dtype), weight, padding=self.padding)
        return torch.addcmul(self.bias[:, None, None].to(x.dtype), x, gain.to(x.dtype))


class FilteredLayer(nn.Module):
    """A modulated convolution and a filtered leaky ReLU: the band of one layer to that of the next (Fig. 4b).

    Args:
        before: The band of what comes in.
        after: The band of what goes out.
        style_dim: Length of the styles.
        rotation: Whether the layer treats all directions alike.
        critical: Whether its output is sampled critically; then its filters are separable.
    """

    def __init__(self, before: Band, after: Band, style_dim: int, rotation: bool, critical: bool) -> None:
        super().__init__()
        self.convolution = Modulated(before.width, after.width, style_dim, 1 if rotation else 3)
        self.activation = FilteredLeakyReLU(
            before.size,
            after.size,
            (before.rate, after.rate),
            (before.cutoff, after.cutoff),
            (before.half_width, after.half_width),
            radial=rotation and not critical,
        )

    def forward(self, x: Tensor, w: Tensor, magnitude: Tensor) -> Tensor:
        x = self.convolution(x, w, magnitude)
        if x.dtype == torch.float16:
            x = x.clamp(-256, 256)
        image: Tensor = self.activation(x)
        return image


class StyleGAN3Generator(StyleGenerator):
    """Fourier features that are filtered at every step, equivariant to translation, or to rotation too.

    Args:
        resolution: Height and width of the images: a power of two from 16 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors. The paper has 512.
        style_dim: Length of the styles. The paper has 512.
        width: Channels at the full resolution; they grow as the layers' bands shrink.
        max_width: Channels are never more than this. The paper has 512, and 1024 with rotation.
        mapping_layers: Layers of the mapping network.
        layers: Layers of the synthesis before the one that makes the image.
        margin: Pixels beyond each edge in all but the last layers, so that edges can't be felt inside.
        rotation: Configuration R: 1 x 1 convolutions and radial filters; otherwise T.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 64,
        style_dim: int = 64,
        width: int = 32,
        max_width: int = 64,
        mapping_layers: int = 2,
        layers: int = 14,
        margin: int = 10,
        rotation: bool = False,
    ) -> None:
        doublings(resolution, lowest=16, highest=1024)
        if layers < CRITICAL + 1 or margin < 0:
            raise ValueError(f"layers must be at least {CRITICAL + 1} and margin at least 0, got {layers} and {margin}")
        mapping = Mapping(latent_dim, style_dim, label_dim, mapping_layers)
        super().__init__(mapping, latent_dim, style_dim, label_dim, styles=layers + 2)
        self.resolution = resolution
        *plan, picture = bands(resolution, layers, margin, width, max_width)
        self.features = FourierFeatures(plan[0], style_dim)
        self.layers = nn.ModuleList(
            FilteredLayer(plan[max(i - 1, 0)], band, style_dim, rotation, critical=i >= layers - CRITICAL)
            for i, band in enumerate(plan)
        )
        self.output = Modulated(picture.width, channels, style_dim, kernel=1, demodulate=False)

    def synthesis(self, styles: Tensor, noise: NoiseMode = "random", transform: Tensor | None = None) -> Tensor:
        """Draw images, N C H W, about in [-1, 1], from ``styles``, N x layers x style_dim.

        Args:
            styles: A style for each layer of each image.
            noise: This network has no noise.
            transform: Where each point of the images is taken from, 3 x 3 or N x 3 x 3, in units of their sides, with
                0 in the middle, x to the right and y down: the identity, a translation or a rotation.
        """
        with torch.autocast(styles.device.type, enabled=False):
            styles = styles.to(torch.promote_types(styles.dtype, torch.float32))
            transform = styles.new_ones(3).diag() if transform is None else transform.to(styles)
            first, *others, last = styles.unbind(1)
            x = self.features(first, transform)
        for layer, w in zip(self.layers, others, strict=True):
            assert isinstance(layer, FilteredLayer)
            x = layer(x, w, layer.convolution.follow(x))
        image: Tensor = self.output(x, last, self.output.follow(x)).to(styles.dtype) * PICTURE_GAIN
        return image
