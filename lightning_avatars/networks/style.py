"""What style-based generators share: latents become styles, and each layer is given one (Karras et al. 2019)."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_avatars.metrics.processes import rank_and_world
from lightning_avatars.networks.base import Generator
from lightning_avatars.networks.layers.equalized import EqualizedLinear, activate, pixel_norm
from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.stages import at_least_one

NoiseMode = Literal["random", "constant", "none"]


class Mapping(nn.Module):
    """Latent vectors, and labels where there are any, to styles.

    Args:
        latent_dim: Length of the latent vectors.
        style_dim: Length of the styles.
        label_dim: Length of the label vectors; 0 for none.
        layers: Fully connected layers. StyleGAN and StyleGAN2 have 8, StyleGAN3 and StyleGAN2-ADA 2.
        learning_rate: Factor of these layers' learning rate.
    """

    def __init__(
        self, latent_dim: int, style_dim: int, label_dim: int = 0, layers: int = 8, learning_rate: float = 0.01
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim, style_dim=style_dim, mapping_layers=layers)
        self.embedding = LabelEmbedding(label_dim, latent_dim) if label_dim else None
        sizes = [latent_dim * (2 if label_dim else 1), *[style_dim] * layers]
        self.layers = nn.ModuleList(
            EqualizedLinear(before, after, learning_rate=learning_rate) for before, after in pairwise(sizes)
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            x = pixel_norm(z.to(torch.promote_types(z.dtype, torch.float32)))
            if self.embedding is not None:
                x = torch.cat([x, pixel_norm(self.embedding(labels))], 1)
            for layer in self.layers:
                x = activate(layer(x))
            return x


def share_of_batch(count: int, half_life: float) -> float:
    """Weight of a batch in a running mean with a half-life in images, of which each process has ``count``.

    The mean of what the processes have then is what one process with all the images would have.
    """
    return float(1 - 0.5 ** (count * rank_and_world()[1] / half_life))


class StyleGenerator(Generator):
    """A generator in two parts: a mapping of latents to styles, and a synthesis of images from a style per layer.

    While it trains it mixes the styles of two latents in some images, and follows the mean style for truncation.

    Args:
        mapping: The mapping network.
        latent_dim: Length of the latent vectors.
        style_dim: Length of the styles.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        styles: Layers that are given a style each.
        style_mixing: Share of the images that are made of two latents while training.
        mean_half_life: Half-life in images of the mean style, over all processes.
    """

    style_mean: Tensor

    def __init__(
        self,
        mapping: Mapping,
        latent_dim: int,
        style_dim: int,
        label_dim: int,
        styles: int,
        style_mixing: float = 0.0,
        mean_half_life: float = 10_000,
    ) -> None:
        super().__init__(latent_dim, label_dim)
        if not 0 <= style_mixing <= 1:
            raise ValueError(f"style_mixing is a share of the images, from 0 to 1, got {style_mixing}")
        self.mapping, self.styles = mapping, styles
        self.style_mixing, self.mean_half_life = style_mixing, mean_half_life
        self.register_buffer("style_mean", torch.zeros(style_dim))

    @abstractmethod
    def synthesis(self, styles: Tensor, noise: NoiseMode = "random") -> Tensor:
        """Draw images, N C H W, about in [-1, 1], from ``styles``, N x layers x style_dim.

        Args:
            styles: A style for each layer of each image.
            noise: New noise, the network's own constants, or none, where the network has noise.
        """

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = self.mapping(z, labels)
        if not self.training:
            return self.synthesis(self.spread(w), "constant")
        if torch.is_grad_enabled():  # not in a discriminator's turn of its own: images would count twice
            share = share_of_batch(len(w), self.mean_half_life)
            self.style_mean.lerp_(w.detach().mean(0).to(self.style_mean.dtype), share)
        return self.synthesis(self.mix(w, labels) if self.style_mixing else self.spread(w))

    @property
    def entry(self) -> Tensor:
        """The weights that turn styles into scales, of all layers, one above another."""
        return torch.cat([p for name, p in self.named_parameters() if name.endswith("affine.weight")])

    def spread(self, w: Tensor) -> Tensor:
        """Give each layer the same style: N x style_dim becomes N x layers x style_dim."""
        return w[:, None].expand(-1, self.styles, -1)

    def mix(self, w: Tensor, labels: Tensor | None) -> Tensor:
        """Replace the styles from a random layer on by another latent's, in some images (StyleGAN, Sec. 3.1)."""
        other = self.mapping(torch.randn(len(w), self.latent_dim, device=w.device), labels)
        first = torch.randint(1, self.styles, (len(w), 1), device=w.device)
        kept = torch.rand(len(w), 1, device=w.device) >= self.style_mixing
        own = kept | (torch.arange(self.styles, device=w.device) < first)
        return torch.where(own[..., None], w[:, None], other[:, None])

    def truncated(self, z: Tensor, labels: Tensor | None, truncation_psi: float) -> Tensor:
        """Draw images from styles nearer to the mean one (StyleGAN, Sec. B)."""
        if not 0 <= truncation_psi <= 1:
            raise ValueError(f"truncation_psi must be from 0 (the mean style) to 1 (none), got {truncation_psi}")
        w = self.mapping(z, labels)
        return self.synthesis(self.spread(torch.lerp(self.style_mean.to(w.dtype), w, truncation_psi)), "constant")
