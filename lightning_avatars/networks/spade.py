"""Generator whose norms are modulated by the source at every pixel (SPADE, Park et al. 2019, Fig. 2-4 and 11).

A 3 x 3 convolution of the source at 8 x 8, then residual blocks between doublings. At 256 x 256 with width 64 the
blocks have 1024, 1024, 1024, 512, 256, 128 and 64 channels, two of them at 16 x 16. With bias in their convolutions,
as in the authors' code, the network has 96,492,483 parameters for the 151 classes of ADE20K, 93,048,003 for the 36
planes of Cityscapes, and 97,480,899 for the 184 of COCO-Stuff.

Departures: no image encoder before it, as in the authors' setting without one; norms are instance norm unless another
is given (the authors' is batch norm over all processes: ``BatchNorm2d`` with ``affine: false``), and convolutions that
only such norms see the result of have no bias, nor has the last block (9,088 parameters less); labels, where there are
any, are planes beside the source.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.layers.planes import with_labels
from lightning_avatars.networks.layers.spectral import add_spectral_norm
from lightning_avatars.networks.translator import Translator

Norm = Callable[[int], nn.Module]


class Modulation(nn.Module):
    """A norm whose scale and shift are made from the source, pixel by pixel (Eq. 1).

    Args:
        channels: Channels of the features.
        source_channels: Channels of the source.
        hidden: Channels between the source and the scales and shifts.
        normalization: Makes the norm, which has no scale and shift of its own.
    """

    def __init__(self, channels: int, source_channels: int, hidden: int, normalization: Norm) -> None:
        super().__init__()
        self.norm = normalization(channels)
        self.hidden = nn.Sequential(nn.Conv2d(source_channels, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.scale_and_shift = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(self.hidden(source)).chunk(2, 1)
        x = self.norm(x)
        return torch.addcmul(x + shift, x, scale)  # a scale near one at the start, as in the authors' code


class Block(nn.Module):
    """Two modulated convolutions beside a shortcut (Fig. 4 a).

    Args:
        before: Channels that come in.
        after: Channels that go out.
        source_channels: Channels of the source.
        hidden: Channels between the source and the scales and shifts.
        normalization: Makes the norms.
    """

    def __init__(self, before: int, after: int, source_channels: int, hidden: int, normalization: Norm) -> None:
        super().__init__()
        middle = min(before, after)
        self.norm1 = Modulation(before, source_channels, hidden, normalization)
        self.conv1 = nn.Conv2d(before, middle, 3, padding=1, bias=False)
        self.norm2 = Modulation(middle, source_channels, hidden, normalization)
        self.conv2 = nn.Conv2d(middle, after, 3, padding=1, bias=False)
        self.norm3 = Modulation(before, source_channels, hidden, normalization) if before != after else None
        self.shortcut = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        h = self.conv1(leaky_relu(self.norm1(x, source), 0.2))
        h = self.conv2(leaky_relu(self.norm2(h, source), 0.2))
        kept = self.shortcut(x if self.norm3 is None else self.norm3(x, source))
        return torch.add(kept, h)

    def add_spectral_norm(self) -> None:
        """Normalise the weights of what is modulated, and not of what modulates."""
        for layer in (self.conv1, self.conv2, self.shortcut):
            add_spectral_norm(layer)


class SPADETranslator(Translator):
    """Label maps, and other planes beside them, to images.

    Args:
        resolution: Height and width of the images: ``lowest`` times a power of two.
        channels: Channels of the images.
        source_channels: Channels of what is translated; 0 for the images' own.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at the full resolution; they double with each halving down to 16 x 16. The paper has 64.
        hidden: Channels between the source and a norm's scales and shifts. The paper has 128.
        lowest: Height and width where the network begins. The paper has 8 for 256 x 256.
        normalization: Makes the norms from their numbers of channels; they have no scale and shift of their own.
    """

    def __init__(
        self,
        resolution: int = 256,
        channels: int = 3,
        source_channels: int = 0,
        label_dim: int = 0,
        width: int = 64,
        hidden: int = 128,
        lowest: int = 8,
        normalization: Norm = InstanceNorm2d,
    ) -> None:
        doublings = (max(resolution // max(lowest, 1), 1)).bit_length() - 1
        if lowest < 2 or doublings < 2 or resolution != lowest << doublings:
            raise ValueError(
                f"resolution is lowest, of 2 or more, times 4, 8, 16 or another power of two; got {resolution} and "
                f"lowest {lowest}: set data.resolution, or lowest"
            )
        super().__init__(label_dim, 1 << doublings, resolution)
        self.source_channels = source_channels or channels
        planes, widest = self.source_channels + label_dim, width << (doublings - 1)
        widths = [widest, widest, widest, *(widest >> number for number in range(1, doublings))]
        self.enter = nn.Conv2d(planes, widest, 3, padding=1, bias=False)
        blocks = [Block(before, after, planes, hidden, normalization) for before, after in pairwise([widest, *widths])]
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.apply(initialise)
        for block in blocks:
            block.add_spectral_norm()

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_size(source)
        source = with_labels(source, labels, self.label_dim)
        times = self.multiple
        x = self.enter(source[:, :, ::times, ::times])
        for number, block in enumerate(self.blocks):
            if number not in (0, 2):  # two blocks are at twice the lowest size
                times //= 2
                x = interpolate(x, scale_factor=2.0)
            x = block(x, source[:, :, ::times, ::times])  # labels are never interpolated
        image: Tensor = self.output(leaky_relu(x, 0.2))
        return image.to(source.dtype).tanh()


def initialise(module: nn.Module) -> None:
    """Draw convolutions as Glorot and Bengio 2010 do, 0.02 times as large."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, gain=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
