"""Patch discriminators of an image at several sizes (pix2pixHD, Wang et al. 2018, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.layers.growing import stage_of
from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.patch import PatchDiscriminator


class MultiScaleDiscriminator(Discriminator):
    """Images, their halves, quarters and so on, each to a grid of logits; verdicts have all layers' features.

    Where it ``grows``, its ``level`` buffer says whether it judges whole images too, from 1 on, or begins with halves:
    ``scheduled`` with the same schedule as that of a ``Pix2PixHDTranslator``, whose coarse images are halves enlarged.

    Departure: images are halved by means of 2 x 2 pixels, where the authors' code has overlapping 3 x 3.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels after the first convolution; they double with each one. The paper has 64.
        layers: Convolutions that halve height and width. The paper has 3, for patches of 70 pixels at each scale.
        max_width: Channels are never more than this. The paper has 512.
        normalization: Makes the norm after a convolution from its number of channels; no batch norm may meet a gradient
            penalty.
        spectral: Divide weights by their largest singular value (Miyato et al. 2018).
        source_channels: Channels of what was translated; where there are any, they come before the images' channels.
        scales: How many sizes are judged. The paper has 3, and 2 for smaller images.
        grows: Whether there is a ``level``.
    """

    level: Tensor

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 64,
        layers: int = 3,
        max_width: int = 512,
        normalization: Callable[[int], nn.Module] = InstanceNorm2d,
        spectral: bool = False,
        source_channels: int = 0,
        scales: int = 2,
        grows: bool = False,
    ) -> None:
        super().__init__(label_dim)
        least = 2 if grows else 1
        smallest = max(3 << layers, 1) if layers else 1
        most = max(resolution // smallest, 1).bit_length()
        if not least <= scales <= most or resolution % (1 << (scales - 1)):
            raise ValueError(
                f"{scales} scales of {resolution} x {resolution} pixels cannot be judged with layers={layers}: the "
                f"smallest is to be {smallest} x {smallest} or more, without a remainder; give scales from {least} to "
                f"{most}, or fewer layers"
            )
        self.grows = grows
        if grows:
            self.register_buffer("level", torch.tensor(1.0))
        self.scales = nn.ModuleList(
            PatchDiscriminator(
                resolution >> scale, channels, label_dim, width, layers, max_width, normalization, spectral,
                source_channels,
            )
            for scale in range(scales)
        )  # fmt: skip

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        logits, features = [], []
        begin = 1 if self.grows and stage_of(self.level, 1)[0] == 0 else 0
        for number, network in enumerate(self.scales):
            if number:
                x = avg_pool2d(x, 2)
            if number >= begin:
                verdict = network(x, labels)
                logits += verdict.logits
                features += verdict.features
        return Verdict(logits, features)
