"""Discriminator of overlapping patches (pix2pix, Isola et al. 2017, Sec. 3.2 and 6.1.2), after Li and Wand (2016).

Departure: labels, where there are any, give each patch a projection term (Miyato and Koyama 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.dcgan import initialise
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.networks.layers.spectral import add_spectral_norm


class PatchDiscriminator(Discriminator):
    """Images to a grid of logits, each of which judges a patch; verdicts have the features of every layer.

    ``layers`` sets the side of the patches: 0 for 1 pixel (PixelGAN), 1 for 16, 2 for 34, 3 for 70, 4 for 142.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels after the first convolution; they double with each one. The paper has 64.
        layers: Convolutions that halve height and width.
        max_width: Channels are never more than this. The paper has 512.
        normalization: Makes the norm after a convolution from its number of channels; no batch norm may meet a gradient
            penalty.
        spectral: Divide weights by their largest singular value (Miyato et al. 2018).
        source_channels: Channels of what was translated; where there are any, they come before the images' channels.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 64,
        layers: int = 3,
        max_width: int = 512,
        normalization: Callable[[int], nn.Module] = BatchNorm2d,
        spectral: bool = False,
        source_channels: int = 0,
    ) -> None:
        super().__init__(label_dim)
        if layers < 0 or width < 1:
            raise ValueError(f"layers must be at least 0 and width at least 1, got {layers} and {width}")
        if layers and resolution >> layers < 3:
            raise ValueError(
                f"images of {resolution} x {resolution} pixels have no patch left after {layers} halvings: give "
                f"layers of at most {max(resolution // 3, 1).bit_length() - 1}"
            )
        kernel, padding = (4, 1) if layers else (1, 0)
        strides = [2] * layers + [1] if layers else [1, 1]
        widths = [source_channels + channels, *(min(width << number, max_width) for number in range(len(strides)))]
        self.stages = nn.ModuleList()
        for (before, after), stride in zip(pairwise(widths), strides, strict=True):
            norm = normalization(after) if len(self.stages) else nn.Identity()  # the first layer has none
            bias = isinstance(norm, nn.Identity)
            convolution = nn.Conv2d(before, after, kernel, stride, padding, bias=bias)
            self.stages.append(nn.Sequential(convolution, norm, nn.LeakyReLU(0.2)))
        self.last = (kernel, 1, padding)
        self.output = nn.Conv2d(widths[-1], 1, *self.last)
        self.receptive_field = 1  # side of the patch that a logit judges
        for stride in [1, *reversed(strides)]:
            self.receptive_field = self.receptive_field * stride + kernel - stride
        self.apply(initialise)
        self.embedding = LabelEmbedding(label_dim, widths[-1], std=widths[-1] ** -0.5) if label_dim else None
        if spectral:
            add_spectral_norm(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        logits = self.output(x)
        if self.embedding is not None:
            phi = avg_pool2d(x, *self.last)  # of the patch that each logit judges
            logits = logits + (self.embedding(labels).to(phi.dtype)[:, :, None, None] * phi).sum(1, keepdim=True)
        return Verdict([logits], features)
