"""The generators of pix2pixHD, from coarse to fine (Wang et al. 2018, Sec. 3.2 and A).

The global generator works on half the height and width: c7s1-64, d128, d256, d512, d1024, nine times R1024, u512,
u256, u128, u64, c7s1-3. With bias everywhere, as in the authors' code, and 36 planes (35 classes and the boundary) it
has 112,960 + 73,856 + 295,168 + 1,180,160 + 4,719,616 + 9 x 18,876,416 + 4,719,104 + 1,179,904 + 295,040 + 73,792 +
9,411 = 182,546,755 parameters. The local enhancer adds c7s1-32 and d64, whose features join those that the global
generator makes its image from, three times R64, u32 and c7s1-3: 56,480 + 18,496 + 3 x 73,856 + 18,464 + 4,707.

The ``level`` buffer says which of them are at work, by ``scheduled: {generator.level: …}`` with ``schedules.Steps``:
0 for the global generator alone, whose images are enlarged, 1 for the enhancer too, which then learns alone, 2 for
both together. Without a schedule it is 2.

Departures: convolutions before a norm have no bias; pictures are halved by means of 2 x 2 pixels, so that the enlarged
image of level 0, halved, is that image; the last convolution may see the source too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from lightning_avatars.networks.dcgan import initialise
from lightning_avatars.networks.feature_encoder import FeatureEncoder
from lightning_avatars.networks.layers.growing import stage_of
from lightning_avatars.networks.layers.narrow import NarrowConv2d
from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.layers.padding import ReflectionPad2d
from lightning_avatars.networks.residual_translator import Norm, Residual, ResidualTranslator, down, first, up
from lightning_avatars.networks.translator import Translator


class Pix2PixHDTranslator(Translator):
    """Sources to images through a global generator and a local enhancer.

    Args:
        resolution: Height and width of the images; others that can be halved as often do too.
        channels: Channels of the images.
        source_channels: Channels of what is translated; 0 for the images' own.
        width: Channels after the global generator's first convolution; they double with each halving. The paper has 64.
        halvings: Convolutions of the global generator that halve height and width. The paper has 4.
        blocks: Residual blocks of the global generator. The paper has 9.
        local_blocks: Residual blocks of the enhancer. The paper has 3.
        joins: Whether the enhancer's last convolution also sees the planes that are translated, for sources that share
            pixels with images, as palettes do. The paper has label maps.
        encoder: Describes real images; its planes come after the source's, made by itself or by its ``draw``.
        normalization: Makes the norm after a convolution from its number of channels.
    """

    level: Tensor

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        source_channels: int = 0,
        width: int = 64,
        halvings: int = 4,
        blocks: int = 9,
        local_blocks: int = 3,
        joins: bool = False,
        encoder: FeatureEncoder | None = None,
        normalization: Norm = InstanceNorm2d,
    ) -> None:
        if width < 2 or local_blocks < 0:
            raise ValueError(f"width must be at least 2 and local_blocks at least 0, got {width} and {local_blocks}")
        super().__init__(0, 2 << halvings, resolution)
        self.source_channels = (source_channels or channels) + (encoder.features if encoder is not None else 0)
        self.register_buffer("level", torch.tensor(2.0))
        self.coarse = ResidualTranslator(
            resolution // 2, channels, self.source_channels, width, blocks, halvings, normalization
        )
        self.enter = nn.Sequential(
            first(self.source_channels, width // 2, normalization), down(width // 2, width, normalization)
        )
        self.blocks = nn.ModuleList(Residual(width, normalization) for _ in range(local_blocks))
        self.up = up(width, width // 2, normalization)
        self.joins = joins
        last = width // 2 + (self.source_channels if joins else 0)
        self.output = nn.Sequential(ReflectionPad2d(3), NarrowConv2d(last, channels, 7))
        self.apply(initialise)
        self.encoder = encoder

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_size(source)
        if source.shape[1] != self.source_channels:
            raise ValueError(
                f"this network translates {self.source_channels} planes, the encoder's included where it has one, got "
                f"{source.shape[1]}"
            )
        stage, _ = stage_of(self.level, 2)
        half = avg_pool2d(source, 2)
        if stage == 0:
            return interpolate(self.coarse(half), scale_factor=2.0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and stage > 1):
            features = self.coarse.decoded(half)
        x = features + self.enter(source)
        for block in self.blocks:
            x = block(x)
        x = self.up(x)
        image: Tensor = self.output(torch.cat([x, source.to(x.dtype)], 1) if self.joins else x)
        return image.to(source.dtype).tanh()
