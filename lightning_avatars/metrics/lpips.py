"""Learned perceptual distance of image patches (Zhang et al. 2018), version 0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torchmetrics
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from lightning_avatars.data.cache import file_hash
from lightning_avatars.images import to_float
from lightning_avatars.metrics.extractors.base import full_float32
from lightning_avatars.metrics.pairwise import check, in_chunks
from lightning_avatars.metrics.processes import exact
from lightning_avatars.metrics.weights import (
    ALEXNET,
    ALEXNET_FEATURES,
    VGG16,
    VGG16_FEATURES,
    content_hash,
    locate,
    read,
)

Backbone = Literal["alex", "vgg"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # from [-1, 1] to what the backbones were trained on
HEADS = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}


class LPIPS(nn.Module):
    """Distance of two images in the features of a network, weighted as people see it (Zhang et al. 2018, Eq. 1).

    The weights of the channels, the heads, come with torchmetrics; those of the network from the cache folder.
    ``sha256`` is the hash of the content of both, ``name`` is ``lpips_alex`` or ``lpips_vgg``, and ``least_side`` the
    least height and width of the images: 31 pixels for AlexNet, 16 for VGG.

    Args:
        network: AlexNet, with which LPIPS is mostly reported, or VGG16.
        weights: Torchvision's weights of it; by default those in the cache folder (``lightning-avatars weights``).
    """

    def __init__(self, network: Backbone = "alex", weights: Path | None = None) -> None:
        super().__init__()
        with torch.device("meta"):  # neither time nor random numbers are spent on weights that are replaced
            layers = (alexnet if network == "alex" else vgg16)(weights=None).features
        self.taps = (1, 4, 7, 9, 11) if network == "alex" else (3, 8, 15, 22, 29)  # last ReLU before each pooling
        self.least_side = 31 if network == "alex" else 16
        self.name = f"lpips_{network}"
        self.features = nn.Sequential(*layers[: self.taps[-1] + 1])
        files = (ALEXNET, ALEXNET_FEATURES) if network == "alex" else (VGG16, VGG16_FEATURES)
        tensors = read(locate(*files, path=weights))
        kept = {k.removeprefix("features."): v.float() for k, v in tensors.items() if k.startswith("features.")}
        self.features.load_state_dict(kept, assign=True)
        for i, head in enumerate(read_heads(network)):
            self.register_buffer(f"head{i}", head)
        self.sha256 = content_hash(self.state_dict())
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of images of bytes, N C H W with 1 or 3 channels, in float64, N.

        Raises:
            ValueError: The images are too small for the network, or not two batches of bytes of one shape.
        """
        check(a, b)
        if min(a.shape[2:]) < self.least_side:
            raise ValueError(
                f"{self.name} needs images of at least {self.least_side} x {self.least_side} pixels, got "
                f"{a.shape[2]} x {a.shape[3]}"
            )
        a, b = (images.to(self.get_buffer("head0").device) for images in (a, b))
        with torch.autocast(a.device.type, enabled=False), full_float32():
            return in_chunks(self.distances, a, b)

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of a chunk; gradients go to ``a`` alone, as ``b`` is what ``a`` should be."""
        with torch.no_grad():
            units_b = self.units(b)
        total = torch.zeros(len(a), dtype=torch.float64, device=exact(a.device))
        for i, (unit_a, unit_b) in enumerate(zip(self.units(a), units_b, strict=True)):
            weighted = (self.get_buffer(f"head{i}") * (unit_a - unit_b).square()).sum(1)
            total += weighted.to(total.device).double().mean((1, 2))
        return total

    def units(self, images: Tensor) -> list[Tensor]:
        """Features of images at each tap, of unit length at each place."""
        shift, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (SHIFT, SCALE))
        x = (to_float(images.expand(-1, 3, -1, -1)) - shift) / scale
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found


def read_heads(network: str) -> list[Tensor]:
    """Read the weights of the channels of each layer, 1 C 1 1, from the torchmetrics that is installed.

    Raises:
        RuntimeError: It has no such file, or another one.
    """
    path = Path(torchmetrics.__file__).parent / f"functional/image/lpips_models/{network}.pth"
    if not path.is_file() or file_hash(path) != HEADS[network]:
        raise RuntimeError(
            f"torchmetrics {torchmetrics.__version__} does not have the heads of LPIPS 0.1 in {path}, whose sha256 is "
            f"{HEADS[network]}: install torchmetrics 1.9.0, which has them"
        )
    tensors = read(path)
    return [tensors[f"lin{i}.model.1.weight"] for i in range(len(tensors))]
