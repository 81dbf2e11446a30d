"""A trained autoencoder with a codebook, as the first stage of a model of its codes (van den Oord et al. 2017)."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_avatars.checkpoints import load_module
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.families.base import FaceModule, LatentModule
from lightning_avatars.networks.autoencoder import QuantizedAutoencoder


class FirstStage(nn.Module):
    """What turns images into codes and codes into images, frozen: a copy of the network that the module samples with.

    Args:
        module: A module whose network is a ``QuantizedAutoencoder``.
        name: How messages name it.

    Raises:
        ValueError: The module has no codes.
    """

    def __init__(self, module: FaceModule, name: str) -> None:
        super().__init__()
        network = module.sampler if isinstance(module, LatentModule) else None
        if not isinstance(network, QuantizedAutoencoder):
            held = type(module).__name__ + (f" of a {type(network).__name__}" if network is not None else "")
            raise ValueError(
                f"{name} holds a {held}, which has no codebook: first_stage must be an autoencoder whose latents are "
                "words, such as one that vqvae or vqgan trained"
            )
        self.network: QuantizedAutoencoder = deepcopy(network)
        self.likelihood = deepcopy(module.sampler_likelihood) if isinstance(module, Autoencoding) else None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FirstStage:
        return super().train(False)  # it never trains

    @property
    def places(self) -> int:
        """How many codes an image has."""
        height, width = self.network.places
        return height * width

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Turn images, N C H W in [-1, 1], into codes, N x places, row by row."""
        with torch.autocast(images.device.type, enabled=False):
            given = labels if self.network.label_dim else None
            return self.network.encode_codes(images.to(self.precision), given).flatten(1).long()

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Turn codes, N x places, into images, N C H W, about in [-1, 1]."""
        with torch.autocast(codes.device.type, enabled=False):
            given = labels if self.network.label_dim else None
            output = self.network.decode_codes(codes.unflatten(1, self.network.places), given)
            return output if self.likelihood is None else self.likelihood.mean(output)

    @property
    def precision(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def fingerprint(self) -> str:
        """Hash the network and its weights."""
        digest = hashlib.sha256(str(self.network).encode())
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def load_first_stage(given: Path | FaceModule) -> tuple[FirstStage, dict[str, object] | None]:
    """Take the first stage from a file, or from a module; return its configuration too, where it has one.

    Args:
        given: A checkpoint, exported weights, or a module.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read, or has no codes.
    """
    module = given if isinstance(given, FaceModule) else load_module(given)
    name = "first_stage" if isinstance(given, FaceModule) else str(given)
    return FirstStage(module, name), module.config["model"] if module.config else None
