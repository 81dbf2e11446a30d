"""StarGAN's networks (Choi et al. 2018, Tables 4 and 5), after CycleGAN's and pix2pix's.

The generator with 3 channels and 5 labels has 8,430,528 parameters, as in the authors' code: 25,216 + 131,328 + 524,800
for the halvings, 6 x 1,180,672 for the blocks, 524,544 + 131,200 for the doublings and 9,408 for the image, norms'
scales and shifts included. The discriminator at 128 x 128 has 44,762,048: 3,136 + 131,200 + 524,544 + 2,097,664 +
8,389,632 + 33,556,480 for the halvings, 18,432 for the logits and 40,960 for the labels.

Planes of labels are constant, and instance norm takes constants away: what is left of them enters from the edges, where
the images are continued by zeros. ``shifts`` lets labels in everywhere. ``adds`` begins with the pictures as they are,
so that a generator need not learn first to draw them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.layers.labels import LabelEmbedding, check_labels
from lightning_avatars.networks.layers.narrow import NarrowConv2d
from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.layers.planes import with_labels
from lightning_avatars.networks.translator import Translator


class Normalized(nn.Module):
    """A convolution, instance norm with a scale and a shift, perhaps shifts that depend on labels, and ReLU.

    Args:
        convolution: The convolution.
        channels: Channels that it makes.
        label_dim: Length of the label vectors that shift them; 0 for none.
    """

    def __init__(self, convolution: nn.Module, channels: int, label_dim: int = 0) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, InstanceNorm2d(channels, affine=True)
        self.shifts = nn.Linear(label_dim, channels, bias=False) if label_dim else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.norm(self.convolution(x))
        if self.shifts is not None:
            labels = check_labels(labels, self.shifts.in_features)
            x = x + self.shifts(labels.to(self.shifts.weight.dtype)).to(x.dtype)[:, :, None, None]
        return x.relu_()


class Residual(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Normalized(nn.Conv2d(channels, channels, 3, padding=1, bias=False), channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.norm(self.second(self.first(x))))


class StarGANTranslator(Translator):
    """Pictures and the labels that they shall have, as planes beside them, to pictures.

    Args:
        resolution: Height and width of the images; others that are multiples of 4 do too.
        channels: Channels of the images.
        source_channels: Channels of what is translated; 0 for the images' own.
        label_dim: Length of the label vectors.
        width: Channels after the first convolution; they double with each halving. The paper has 64.
        blocks: Residual blocks. The paper has 6.
        shifts: Whether labels also shift the encoder's features after each norm. The paper has no shifts.
        adds: Whether what the network makes is added to the picture, at first nothing. In the paper it is the image.
    """

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        source_channels: int = 0,
        label_dim: int = 0,
        width: int = 64,
        blocks: int = 6,
        shifts: bool = False,
        adds: bool = False,
    ) -> None:
        super().__init__(label_dim, 4, resolution)
        if blocks < 0 or width < 1:
            raise ValueError(f"blocks must be at least 0 and width at least 1, got {blocks} and {width}")
        if adds and source_channels not in (0, channels):
            raise ValueError(
                f"adds: true adds images of {channels} channels to sources of {source_channels}: set adds to false"
            )
        self.source_channels, self.widths = source_channels or channels, [width, 2 * width, 4 * width]
        first = nn.Conv2d(self.source_channels + label_dim, width, 7, padding=3, bias=False)
        shifted = label_dim if shifts else 0
        self.encoder = nn.ModuleList([Normalized(first, width, shifted)])
        self.decoder = nn.ModuleList()
        for before, after in pairwise(self.widths):
            self.encoder.append(Normalized(nn.Conv2d(before, after, 4, 2, 1, bias=False), after, shifted))
            self.decoder.insert(0, Normalized(nn.ConvTranspose2d(after, before, 4, 2, 1, bias=False), before))
        self.blocks = nn.ModuleList(Residual(self.widths[-1]) for _ in range(blocks))
        self.output, self.adds = NarrowConv2d(width, channels, 7, padding=3, bias=False), adds
        if adds:
            nn.init.zeros_(self.output.weight)

    @property
    def stages(self) -> list[nn.Module]:
        return [*self.encoder, *self.blocks]

    @property
    def feature_channels(self) -> list[int]:
        return [self.source_channels, *self.widths, *self.widths[-1:] * len(self.blocks)]

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_size(source)
        x = with_labels(source, labels, self.label_dim)
        for stage in self.encoder:
            x = stage(x, labels)
        for stage in [*self.blocks, *self.decoder]:
            x = stage(x)
        image: Tensor = self.output(x)
        image = image.to(source.dtype).tanh()
        return source + 2 * image if self.adds else image  # any pixel can become any other


class StarGANDiscriminator(Discriminator):
    """Images to a logit for each of their parts, and one for each label: the head ``class`` of the verdict.

    It has no norm, so it may meet a gradient penalty. ``terms.classification.Classification`` trains its head.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors.
        width: Channels after the first convolution; they double with each one. The paper has 64.
        layers: Convolutions that halve height and width; 0 for as many as leave 2 x 2. The paper has 6 for 128 x 128.
        max_width: Channels are never more than this. The paper has 2048.
        projects: Whether the logits also tell whether an image shows the labels that it is given (Miyato and Koyama
            2018), which what merely fools the head does not. The paper's logits know of no labels.
    """

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 64,
        layers: int = 0,
        max_width: int = 2048,
        projects: bool = False,
    ) -> None:
        super().__init__(label_dim)
        if label_dim < 1:
            raise ValueError(
                "StarGAN's discriminator names labels, but label_dim is 0: set conditional, and use data with labels, "
                "or cyclegan for two domains without any"
            )
        layers = layers or max(resolution.bit_length() - 2, 1)
        if not 0 < layers < resolution.bit_length():
            raise ValueError(
                f"images of {resolution} x {resolution} pixels have nothing left after {layers} halvings: give layers "
                f"from 1 to {resolution.bit_length() - 1}, or 0"
            )
        widths = [channels, *(min(width << number, max_width) for number in range(layers))]
        self.stages = nn.Sequential()
        for before, after in pairwise(widths):
            self.stages.extend([nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.01, inplace=True)])
        self.output = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        features = widths[-1] * (resolution >> layers) ** 2
        self.classes = nn.Linear(features, label_dim, bias=False)
        self.embedding = LabelEmbedding(label_dim, features, std=features**-0.5) if projects else None

    @property
    def heads(self) -> dict[str, int]:
        return {"class": self.label_dim}

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        phi = self.stages(x)
        with torch.autocast(x.device.type, enabled=False):
            phi = phi.to(self.classes.weight.dtype)
            logits = self.output(phi)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * phi.flatten(1)).sum(1)[:, None, None, None]
            return Verdict([logits], heads={"class": self.classes(phi.flatten(1))})
