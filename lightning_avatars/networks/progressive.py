"""ProGAN: both players grow from 4 x 4 while they train (Karras et al. 2018, Sec. 2 and 4, Table 2).

A schedule of the ``level`` buffers says how far: ``scheduled: {generator.level: …, discriminator.level: …}`` with
``schedules.Growing``. Stages above the level are not computed. Without a schedule the networks are whole from the
start. Width 16 at 1024 x 1024, or 64 at 256 x 256, is the paper's.

Departures: the generator's images are enlarged to the full resolution and the discriminator shrinks what it is given
(``layers/growing.py``); real images are not faded as the generator's are, only the discriminator's view of them is;
minibatch deviation in groups of four. Labels are joined to the latent and projected in the discriminator, where the
paper has classes in an extra output.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu

from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.equalized import (
    ROOT_2,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchDeviation,
    pixel_norm,
)
from lightning_avatars.networks.layers.growing import enlarge, fade, shrink, stage_of
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.stages import stage_widths


class Block(nn.Module):
    """Convolutions, each with a leaky ReLU and perhaps the norm of the generator.

    Args:
        sizes: Channels before, between and after the convolutions.
        normalized: Whether pixels are normalised after each.
        kernel: Height and width of the kernels.
    """

    def __init__(self, sizes: list[int], normalized: bool = False, kernel: int = 3) -> None:
        super().__init__()
        self.normalized = normalized
        self.layers = nn.ModuleList(EqualizedConv2d(a, b, kernel, gain=ROOT_2) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            x = pixel_norm(x) if self.normalized else x
        return x


class ProgressiveGenerator(Generator):
    """Latent vectors to images that grow with the level.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors. The paper has 512.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this. The paper has 512.
    """

    level: Tensor

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 128,
        width: int = 32,
        max_width: int = 512,
    ) -> None:
        super().__init__(latent_dim, label_dim)
        widths = stage_widths(resolution, width, max_width)
        self.resolution, self.last = resolution, len(widths) - 1
        self.register_buffer("level", torch.tensor(float(self.last)))
        self.embedding = LabelEmbedding(label_dim, latent_dim) if label_dim else None
        inputs = latent_dim * (2 if label_dim else 1)
        # a 4 x 4 convolution of one pixel: He's constant counts 16 times as many inputs
        self.first = EqualizedLinear(inputs, widths[0] * 16, bias=None, gain=ROOT_2 / 4)
        self.bias = nn.Parameter(torch.zeros(widths[0], 1, 1))
        sizes = [[widths[0]] * 2, *([before, after, after] for before, after in pairwise(widths))]
        self.stages = nn.ModuleList(Block(size, normalized=True) for size in sizes)
        self.to_image = nn.ModuleList(EqualizedConv2d(size, channels, 1) for size in widths)

    @property
    def entry(self) -> Tensor:
        return self.first.weight[:, : self.latent_dim]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        stage, fading = stage_of(self.level, self.last)
        latent = pixel_norm(z)
        if self.embedding is not None:
            latent = torch.cat([latent, pixel_norm(self.embedding(labels).to(z.dtype))], 1)
        x = pixel_norm(leaky_relu(self.first(latent).unflatten(1, (-1, 4, 4)) + self.bias, 0.2))
        below = x = self.stages[0](x)
        for block in self.stages[1 : stage + 1]:
            below, x = x, block(interpolate(x, scale_factor=2))
        image: Tensor = self.to_image[stage](x)
        if fading:
            image = fade(self.level, stage, interpolate(self.to_image[stage - 1](below), scale_factor=2), image)
        return enlarge(image.to(z.dtype), self.resolution)


class ProgressiveDiscriminator(Discriminator):
    """Images to one logit, through stages that grow with the level.

    Args:
        resolution: Height and width of the images: a power of two from 8 to 1024.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Channels at the full resolution; they double with each halving.
        max_width: Channels are never more than this. The paper has 512.
        group: Images whose features are compared for their deviation.
    """

    level: Tensor

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 32,
        max_width: int = 512,
        group: int = 4,
    ) -> None:
        super().__init__(label_dim)
        widths = stage_widths(resolution, width, max_width)
        self.last, features = len(widths) - 1, widths[0]
        self.register_buffer("level", torch.tensor(float(self.last)))
        self.from_image = nn.ModuleList(Block([channels, size], kernel=1) for size in widths)
        sizes = [[features + 1, features], *([before, before, after] for after, before in pairwise(widths))]
        self.stages = nn.ModuleList(Block(size) for size in sizes)
        self.deviation = MinibatchDeviation(group)
        self.dense = EqualizedLinear(features * 16, features, gain=ROOT_2)
        self.output = EqualizedLinear(features, 1)
        self.embedding = LabelEmbedding(label_dim, features) if label_dim else None

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        stage, fading = stage_of(self.level, self.last)
        x = shrink(x, 4 << stage)
        y = self.from_image[stage](x)
        for number in range(stage, 0, -1):
            y = avg_pool2d(self.stages[number](y), 2)
            if fading and number == stage:
                y = fade(self.level, stage, self.from_image[stage - 1](avg_pool2d(x, 2)), y)
        phi = leaky_relu(self.dense(self.stages[0](self.deviation(y)).flatten(1)), 0.2)
        return Verdict([self.judge(phi, labels)])

    def judge(self, phi: Tensor, labels: Tensor | None) -> Tensor:
        """Turn features N x features into logits N, in float32."""
        with torch.autocast(phi.device.type, enabled=False):
            phi = phi.to(self.output.weight.dtype)
            logits: Tensor = self.output(phi).squeeze(1)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * phi).sum(1) * phi.shape[1] ** -0.5
            return logits
