"""An autoencoder known in closed form: latents are mean colours of squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from lightning_avatars.checkpoints import WholeFiles
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import LatentModule
from lightning_avatars.latents import Gaussian
from lightning_avatars.networks.autoencoder import Autoencoder, Reconstruction
from tests.conf.tiny import TinyFaces

SIDE = 2  # squares in a row


class Squares(Autoencoder):
    """Mean colours of 2 x 2 squares; a label's share of the brightness is added by the decoder, and not encoded.

    Args:
        resolution: Height and width.
        label_dim: Length of the labels.
    """

    def __init__(self, resolution: int = 8, label_dim: int = 0) -> None:
        super().__init__(3 * SIDE**2, label_dim)
        self.resolution = resolution

    def brightness(self, labels: Tensor | None) -> Tensor | float:
        return 0.0 if labels is None else 0.1 * labels[:, -1:, None, None]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Reconstruction:
        return Reconstruction(self.decode(self.encode(x, labels), labels))

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return adaptive_avg_pool2d(x - self.brightness(labels), SIDE).flatten(1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return interpolate(latents.view(-1, 3, SIDE, SIDE), size=self.resolution) + self.brightness(labels)

    def from_normal(self, noise: Tensor) -> Tensor:
        return noise / 2


class Encoding(LatentModule):
    """A family of that network alone, which nothing trains.

    Args:
        network: The network.
        conditional: Whether it is given labels.
    """

    encodes = True

    def __init__(self, network: Squares, conditional: bool = False) -> None:
        super().__init__()
        self.network, self.conditional, self.prior = network, conditional, Gaussian()

    @property
    def sampler(self) -> Squares:
        return self.network

    def latents(self, seeds: Tensor) -> Tensor:
        return self.network.from_normal(super().latents(seeds))

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.network.encode(images, labels)

    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        return self.network.decode(latents, labels)

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def encoding_checkpoint(path: Path, conditional: bool = False, data: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint of it."""
    network = {"class_path": "tests.conf.encoding.Squares", "init_args": {"label_dim": 3 if conditional else 0}}
    module = Encoding(Squares(label_dim=3 if conditional else 0), conditional)
    module.label_names = TinyFaces().label_names
    module.label_rows = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    config = {
        "model": {
            "class_path": "tests.conf.encoding.Encoding",
            "init_args": {"network": network, "conditional": conditional},
        },
        "data": data or {"dataset": {"class_path": "tests.conf.tiny.TinyFaces"}, "resolution": 8},
    }
    WholeFiles(beside=False).save_checkpoint({"config": config, "state_dict": module.state_dict()}, path)
    return path
