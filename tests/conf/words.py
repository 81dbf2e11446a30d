"""A first stage that needs no training, and priors over its codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_avatars.cli import main
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.families.autoregressive import Autoregressive
from lightning_avatars.networks.autoencoder import QuantizedAutoencoder, Reconstruction
from lightning_avatars.networks.transformer import Transformer
from lightning_avatars.objectives.likelihoods import Gaussian

WORDS = str(Path(__file__).parent / "words.yaml")
PRIOR = str(Path(__file__).parent / "prior.yaml")


class TinyWords(QuantizedAutoencoder):
    """Each word says which channels are bright in a square of pixels; one number is learned: how bright they are.

    Args:
        resolution: Height and width, a multiple of ``grid``.
        channels: Colours.
        label_dim: Length of the labels; they are looked at and change nothing.
        grid: Squares on a side.
    """

    def __init__(self, resolution: int = 8, channels: int = 3, label_dim: int = 0, grid: int = 4) -> None:
        super().__init__((channels, grid, grid), 2**channels, label_dim)
        self.size, self.channels = resolution // grid, channels
        self.brightness = nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def seen(self, labels: Tensor | None) -> None:
        self.calls += 1
        assert (labels.shape[1] if labels is not None else 0) == self.label_dim

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        codes = self.encode_codes(x, labels)
        return Reconstruction(self.decode_codes(codes, labels), codes=codes)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.signs(self.encode_codes(x, labels)).flatten(1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen(labels)
        squares = latents.unflatten(1, self.grid)
        return self.brightness * F.interpolate(squares, scale_factor=self.size)

    def from_normal(self, noise: Tensor) -> Tensor:
        return noise.sign()

    def encode_codes(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen(labels)
        bright = F.avg_pool2d(x, self.size) > 0
        return (bright * 2 ** torch.arange(self.channels, device=x.device)[:, None, None]).sum(1)

    def decode_codes(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.decode(self.signs(codes).flatten(1), labels)

    def signs(self, codes: Tensor) -> Tensor:
        bits = codes[:, None] // 2 ** torch.arange(self.channels, device=codes.device)[:, None, None] % 2
        return bits * 2.0 - 1


def first_stage(label_dim: int = 0, **options: Any) -> Autoencoding:
    """Make a first stage, the same weights every time."""
    return Autoencoding(
        TinyWords(label_dim=label_dim, **options), Gaussian(), conditional=label_dim > 0, average_half_life=None
    )


def prior(conditional: bool = False, first: Autoencoding | Path | None = None, **options: Any) -> Autoregressive:
    """Make a tiny prior, the same weights every time."""
    torch.manual_seed(0)
    network = partial(Transformer, label_dim=3 if conditional else 0, width=16, layers=2, heads=2)
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    options = {"network": network, "optimizer": optimizer, "average_half_life": 100} | options
    return Autoregressive(first or first_stage(), conditional=conditional, **options)


def first_stage_file(folder: Path, *arguments: str) -> Path:
    """Train a first stage on one batch through the command line; return its checkpoint."""
    main(["fit", "-c", WORDS, "--trainer.default_root_dir", str(folder), *arguments])
    return folder / "checkpoints/images_000000008.ckpt"
