"""A segmenter that judges whether images show the parts of a label map where it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_avatars.images import to_float
from lightning_avatars.metrics.extractors.base import full_float32
from lightning_avatars.metrics.weights import content_hash
from lightning_avatars.networks.segmenter import read_segmenter


class Segmenter(nn.Module):
    """A frozen network that names the part which each pixel shows; always float32, without TF32 and autocast.

    Args:
        path: A ``segmenter.safetensors`` that a run has written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """

    precision = "float32"
    batch = 64  # images that the network sees at a time

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no segmenter at {path}: train one by `lightning-avatars fit --model segmentation --data …`, "
                "which leaves segmenter.safetensors in its run's folder"
            )
        self.network = read_segmenter(path)
        self.name, self.sha256 = path.stem, content_hash(self.network.state_dict())
        self.mask_names, self.resolution = self.network.mask_names, self.network.resolution
        self.resize = f"bilinear, antialiased, to {self.resolution} x {self.resolution}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Name what images of bytes, N C H W with 1 or 3 channels, show: label maps of bytes, N 1 H W.

        Images of another size than the network was trained at are resized, and its logits are resized back.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"a segmenter takes uint8 images N C H W of 1 or 3 channels; got {images.dtype} of shape "
                f"{tuple(images.shape)}: use images.to_bytes"
            )
        device, starts = self.network.parts.weight.device, range(0, len(images), self.batch)
        with torch.autocast(device.type, enabled=False), full_float32():
            return torch.cat([self.name_pixels(images[i : i + self.batch].to(device)) for i in starts])

    def name_pixels(self, images: Tensor) -> Tensor:
        """Name the parts of some images of bytes."""
        x, size = to_float(images), images.shape[2:]
        x = x.expand(-1, 3, -1, -1) if self.network.channels == 3 else x.mean(1, keepdim=True)
        logits: Tensor
        if size == (self.resolution, self.resolution):
            logits = self.network(x)
        else:
            x = F.interpolate(x, (self.resolution, self.resolution), mode="bilinear", antialias=True)
            logits = F.interpolate(self.network(x), size, mode="bilinear", antialias=True)
        return logits.argmax(1, keepdim=True).to(torch.uint8)


def load_segmenter(
    path: str | Path, mask_names: Sequence[str] | None = None, device: torch.device | str = "cpu"
) -> Segmenter:
    """Read a segmenter that a run has written.

    Args:
        path: Its file.
        mask_names: The data's parts, which must be those that it was trained on; None to take it as it is.
        device: Where it goes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no segmenter, or its parts are not the data's.
    """
    segmenter = Segmenter(Path(path).expanduser()).to(device)
    if mask_names is not None and segmenter.mask_names != list(mask_names):
        raise ValueError(
            f"{path} names the parts {', '.join(segmenter.mask_names)}, but the data's label maps have "
            f"{', '.join(mask_names) or 'none'}: give a segmenter that was trained on such maps"
        )
    return segmenter
