"""The U-Net of pix2pix (Isola et al. 2017, Sec. 6.1.1), after Ronneberger et al. 2015.

Encoder C64-C128-C256-C512 and C512 until nothing can be halved, eight layers at most; a decoder of as many, each of
which is also shown the encoder's features of its size. Every layer is a 4 x 4 convolution with stride 2. At 256 x 256
with 3 channels, widths 64 to 512 and batch norm that is, as in the authors' code, 54,413,955 parameters: 16 times
(3 x 64 + 64 x 128 + 128 x 256 + 256 x 512 + 4 x 512 x 512) weights down, 16 times (512 x 512 + 3 x 1024 x 512 +
1024 x 256 + 512 x 128 + 256 x 64 + 128 x 3) weights up, 4,864 and 4,992 scales and shifts of norms, and 3 biases.

Departures: dropout, the paper's only noise, is used in training alone, and batch norm's running statistics in
evaluation, where the paper keeps both as they are in training: a source then has one result. The innermost layer has
no norm, as in the authors' code, for that would make a single pixel zero. Labels, where there are any, are planes
beside the source.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.dcgan import initialise
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.networks.layers.planes import with_labels
from lightning_avatars.networks.translator import Translator


def halvings_of(resolution: int, most: int) -> int:
    """How often a resolution can be halved, ``most`` at most.

    Raises:
        ValueError: Not even twice.
    """
    halvings = min((resolution & -resolution).bit_length() - 1, most)
    if halvings < 2:
        raise ValueError(
            f"a U-Net halves images twice or more often, but {resolution} x {resolution} pixels cannot be: set "
            "data.resolution to a multiple of 4, best to a power of two"
        )
    return halvings


class UNet(Translator):
    """Sources to images through an encoder, a decoder and what one tells the other at every size.

    Args:
        resolution: Height and width of the images. It sets the depth, and with it the sizes that the network takes:
            multiples of 2 to the power of its halvings, as 64 for 64 x 64 pixels and 256 for 256 x 256.
        channels: Channels of the images.
        source_channels: Channels of what is translated; 0 for the images' own.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels after the first convolution; they double with each halving. The paper has 64.
        max_width: Channels are never more than this. The paper has 512.
        halvings: Convolutions that halve height and width, at most. The paper has 8.
        dropout: Share of features that are dropped in the three innermost layers of the decoder, in training.
        normalization: Makes the norm after a convolution from its number of channels.
    """

    def __init__(
        self,
        resolution: int = 256,
        channels: int = 3,
        source_channels: int = 0,
        label_dim: int = 0,
        width: int = 64,
        max_width: int = 512,
        halvings: int = 8,
        dropout: float = 0.5,
        normalization: Callable[[int], nn.Module] = BatchNorm2d,
    ) -> None:
        depth = halvings_of(resolution, halvings)
        super().__init__(label_dim, 1 << depth, resolution)
        self.source_channels = source_channels or channels
        widths = [min(width << number, max_width) for number in range(depth)]
        self.encoder = nn.ModuleList()
        for number, (before, after) in enumerate(pairwise([self.source_channels + label_dim, *widths])):
            norm = normalization(after) if 0 < number < depth - 1 else nn.Identity()
            convolution = nn.Conv2d(before, after, 4, 2, 1, bias=False)
            self.encoder.append(nn.Sequential(convolution, norm, nn.LeakyReLU(0.2, inplace=True)))
        self.decoder = nn.ModuleList()
        for number, (before, after) in enumerate(pairwise(widths[::-1])):
            shown = before * 2 if number else before
            layers = [nn.ConvTranspose2d(shown, after, 4, 2, 1, bias=False), normalization(after)]
            self.decoder.append(nn.Sequential(*layers, nn.Dropout(dropout if number < 3 else 0.0)))
        self.output = nn.ConvTranspose2d(2 * width, channels, 4, 2, 1)
        self.apply(initialise)

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_size(source)
        x = with_labels(source, labels, self.label_dim)
        seen = [x := stage(x) for stage in self.encoder]
        x = seen.pop().relu()
        for stage in self.decoder:
            x = torch.cat([stage(x), seen.pop()], 1).relu_()  # a ReLU after a leaky one is that ReLU alone
        image: Tensor = self.output(x)
        return image.to(source.dtype).tanh()
