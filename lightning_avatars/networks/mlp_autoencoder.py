"""An autoencoder of dense layers (Kingma and Welling 2014, Appendix C; Burda et al. 2016, Sec. 5), for digits."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_avatars.networks.autoencoder import Autoencoder, Reconstruction
from lightning_avatars.networks.layers.bottlenecks import Bottleneck, DiagonalGaussian
from lightning_avatars.networks.layers.labels import check_labels


def layers(widths: list[int], last: int) -> nn.Sequential:
    """Dense layers with SiLU between them, and one without after the last."""
    made = nn.Sequential()
    for before, after in pairwise(widths):
        made.extend([nn.Linear(before, after), nn.SiLU()])
    return made.append(nn.Linear(widths[-1], last))


class MLPAutoencoder(Autoencoder):
    """Images to latents and back through hidden layers with SiLU; labels are joined to images and to latents.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        bottleneck: What makes latents of features; by default ``DiagonalGaussian`` with 50 latents, a VAE.
        parameters_per_channel: Numbers that the likelihood takes for each channel of the images.
        width: Units in each hidden layer.
        depth: Number of hidden layers on either side.
    """

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 1,
        label_dim: int = 0,
        bottleneck: Bottleneck | None = None,
        parameters_per_channel: int = 1,
        width: int = 500,
        depth: int = 2,
    ) -> None:
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        bottleneck = bottleneck or DiagonalGaussian(50)
        super().__init__(bottleneck.width, label_dim)
        self.bottleneck, self.shape = bottleneck, (channels * parameters_per_channel, resolution, resolution)
        pixels = channels * resolution**2
        self.encoder = layers([pixels + label_dim, *[width] * depth], bottleneck.features)
        self.decoder = layers([bottleneck.width + label_dim, *[width] * depth], pixels * parameters_per_channel)

    @property
    def entry(self) -> Tensor:
        first = self.decoder[0]
        assert isinstance(first, nn.Linear)
        return first.weight[:, : self.latent_dim]

    @property
    def normal(self) -> bool:
        return self.bottleneck.normal

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        latents, rates, losses, codes, log_ratio = self.bottleneck(self.features(x, labels))
        return Reconstruction(self.decode(latents.flatten(1), labels), rates, losses, codes, log_ratio)

    def features(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Features for the bottleneck, N F 1 1."""
        features: Tensor = self.encoder(self.joined(x.flatten(1), labels))
        return features[:, :, None, None]

    def joined(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Join labels, where there are any, to vectors."""
        if not self.label_dim:
            return x
        return torch.cat([x, check_labels(labels, self.label_dim).to(x.dtype)], dim=1)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.bottleneck.mean(self.features(x, labels)).flatten(1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.decoder(self.joined(latents, labels))
        return output.reshape(-1, *self.shape)

    def from_normal(self, noise: Tensor) -> Tensor:
        return self.bottleneck.from_normal(noise[:, :, None, None]).flatten(1)
