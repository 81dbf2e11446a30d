"""The first GAN, of dense layers (Goodfellow et al. 2014), and its conditional form (Mirza and Osindero 2014).

Labels are joined to the input of both players. The discriminator has leaky ReLUs where the paper has maxout: half the
parameters, and it trains as well.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.base import Discriminator, Generator, Verdict
from lightning_avatars.networks.layers.labels import ProjectionHead, check_labels


class MLPGenerator(Generator):
    """Latent vectors to images through hidden layers with ReLU and an output in tanh.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        latent_dim: Length of the latent vectors.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        label_dim: int = 0,
        latent_dim: int = 128,
        width: int = 512,
        depth: int = 2,
    ) -> None:
        super().__init__(latent_dim, label_dim)
        self.shape = (channels, resolution, resolution)
        widths = [latent_dim + label_dim, *[width] * depth]
        self.hidden = nn.Sequential()
        for before, after in pairwise(widths):
            self.hidden.extend([nn.Linear(before, after), nn.ReLU()])
        self.output = nn.Linear(widths[-1], channels * resolution**2)

    @property
    def entry(self) -> Tensor:
        first = self.hidden[0]
        assert isinstance(first, nn.Linear)
        return first.weight[:, : self.latent_dim]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = z
        if self.label_dim:
            x = torch.cat([z, check_labels(labels, self.label_dim).to(z.dtype)], dim=1)
        image: Tensor = self.output(self.hidden(x))
        return image.to(z.dtype).tanh().reshape(-1, *self.shape)


class MLPDiscriminator(Discriminator):
    """Images to one logit through hidden layers with leaky ReLU and dropout.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        dropout: Share of the hidden units that is silent in training (Goodfellow et al. 2014, Sec. 5).
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        label_dim: int = 0,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(label_dim)
        widths = [channels * resolution**2 + label_dim, *[width] * depth]
        self.hidden = nn.Sequential()
        for before, after in pairwise(widths):
            self.hidden.extend([nn.Linear(before, after), nn.LeakyReLU(0.2), nn.Dropout(dropout)])
        self.head = ProjectionHead(widths[-1])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        h = x.flatten(1)
        if self.label_dim:
            h = torch.cat([h, check_labels(labels, self.label_dim).to(h.dtype)], dim=1)
        return Verdict([self.head(self.hidden(h))])
