"""The residual translator of CycleGAN (Zhu et al. 2017, Sec. 7.2), after Johnson et al. 2016.

Layers, in the paper's words: c7s1-64, d128, d256, nine times R256 (six for images of 128 x 128), u128, u64, c7s1-3.
With bias everywhere, as the authors' code has it, and 3 channels that is 9,472 + 73,856 + 295,168 + 9 x 1,180,160 +
295,040 + 73,792 + 9,411 = 11,378,179 parameters.

Departure: convolutions before a norm have no bias, for instance norm takes it away again (5,248 parameters less). It
would take planes of labels away too, so the network is for sources alone; ``stargan.py`` has one for labels.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.dcgan import initialise
from lightning_avatars.networks.layers.narrow import NarrowConv2d
from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.layers.padding import ReflectionPad2d
from lightning_avatars.networks.translator import Translator

Norm = Callable[[int], nn.Module]


def first(before: int, after: int, normalization: Norm) -> nn.Sequential:
    """Make c7s1-k: a 7 x 7 convolution of reflected images."""
    convolution = nn.Conv2d(before, after, 7, bias=False)
    return nn.Sequential(ReflectionPad2d(3), convolution, normalization(after), nn.ReLU(inplace=True))


def down(before: int, after: int, normalization: Norm) -> nn.Sequential:
    """Make dk: halve height and width."""
    convolution = nn.Conv2d(before, after, 3, 2, 1, bias=False)
    return nn.Sequential(convolution, normalization(after), nn.ReLU(inplace=True))


def up(before: int, after: int, normalization: Norm) -> nn.Sequential:
    """Make uk: double height and width."""
    convolution = nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1, bias=False)
    return nn.Sequential(convolution, normalization(after), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Rk: two convolutions of reflected features beside a shortcut.

    Args:
        channels: Channels of the features.
        normalization: Makes the norm after each convolution.
    """

    def __init__(self, channels: int, normalization: Norm = InstanceNorm2d) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            normalization(channels),
            nn.ReLU(inplace=True),
            ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            normalization(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.layers(x))


class ResidualTranslator(Translator):
    """Sources to images through two halvings, residual blocks and two doublings.

    It shows features of the source, of the first three convolutions, and of each block: layers 0, 2, 3, 4 and 8 are
    those of contrastive translation (Park et al. 2020).

    Args:
        resolution: Height and width of the images; others that can be halved as often do too.
        channels: Channels of the images.
        source_channels: Channels of what is translated; 0 for the images' own.
        width: Channels after the first convolution; they double with each halving. The paper has 64.
        blocks: Residual blocks. The paper has 9 for 256 x 256 and 6 for 128 x 128.
        halvings: Convolutions that halve height and width. The paper has 2.
        normalization: Makes the norm after a convolution from its number of channels.
    """

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        source_channels: int = 0,
        width: int = 64,
        blocks: int = 9,
        halvings: int = 2,
        normalization: Norm = InstanceNorm2d,
    ) -> None:
        if blocks < 0 or halvings < 0 or width < 1:
            raise ValueError(
                f"blocks and halvings must be at least 0 and width at least 1, got {blocks}, {halvings} and {width}"
            )
        super().__init__(0, 1 << halvings, resolution)
        if resolution < 2 << halvings:
            raise ValueError(
                f"{resolution} x {resolution} pixels have nothing left to be normalised after {halvings} halvings: set "
                f"data.resolution to {2 << halvings} or more, or halvings to less"
            )
        self.source_channels = source_channels or channels
        self.widths = [width << number for number in range(halvings + 1)]
        self.encoder = nn.ModuleList([first(self.source_channels, width, normalization)])
        self.encoder.extend(down(before, after, normalization) for before, after in pairwise(self.widths))
        self.blocks = nn.ModuleList(Residual(self.widths[-1], normalization) for _ in range(blocks))
        self.decoder = nn.Sequential(
            *(up(before, after, normalization) for before, after in pairwise(self.widths[::-1]))
        )
        self.output = nn.Sequential(ReflectionPad2d(3), NarrowConv2d(width, channels, 7))
        self.apply(initialise)

    @property
    def stages(self) -> list[nn.Module]:
        return [*self.encoder, *self.blocks]

    @property
    def feature_channels(self) -> list[int]:
        return [self.source_channels, *self.widths, *self.widths[-1:] * len(self.blocks)]

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        image: Tensor = self.output(self.decoded(source))
        return image.to(source.dtype).tanh()

    def decoded(self, source: Tensor) -> Tensor:
        """Compute the features, N width H W, that the image is made from."""
        self.check_size(source)
        x = source
        for stage in self.stages:
            x = stage(x)
        features: Tensor = self.decoder(x)
        return features
