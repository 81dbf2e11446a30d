"""A small U-Net (Ronneberger et al. 2015) that names the part of a face that each pixel shows.

Made for two processor cores, and so other than the paper's: an eighth of its channels or less, padded
convolutions, so that maps are as large as images, batch norm, means in place of maxima, whose gradient on a GPU is not
the same in every run, and nearest neighbours in place of learned upsampling.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_avatars.networks.layers.normalization import BatchNorm2d

FACTS = ("resolution", "channels", "mask_names", "width", "halvings")


def stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions at one size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SegmentationNet(nn.Module):
    """Images to one logit per pixel and part.

    Args:
        resolution: Height and width that the network is trained at; it takes others that can be halved as often.
        channels: Channels of the images.
        mask_names: Parts that pixels can show, in the order of their numbers in label maps; the data's by default.
        width: Channels at full resolution; each halving doubles them, up to eight times as many.
        halvings: How often height and width are halved.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 3,
        mask_names: Sequence[str] | None = None,
        width: int = 8,
        halvings: int = 4,
    ) -> None:
        super().__init__()
        self.resolution, self.channels, self.width, self.halvings = resolution, channels, width, halvings
        self.mask_names, self.multiple = list(mask_names or ()), 2**halvings
        self.check(resolution, resolution)
        widths = [width * 2 ** min(i, 3) for i in range(halvings + 1)]
        self.down = nn.ModuleList(stage(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(stage(widths[i] + widths[i + 1], widths[i]) for i in reversed(range(halvings)))
        self.parts = nn.Conv2d(width, len(self.mask_names), 1)
        self.to(memory_format=torch.channels_last)

    def check(self, height: int, width: int) -> None:
        """Raise ValueError where images of this size can't be halved as often as they are."""
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"a segmenter that halves images {self.halvings} times can't take {height} x {width} pixels: use "
                f"multiples of {self.multiple}, or fewer halvings"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Name what each pixel of images, N C H W in [-1, 1], shows: logits, N parts H W."""
        self.check(*x.shape[2:])
        x = x.contiguous(memory_format=torch.channels_last)
        beside: list[Tensor] = []
        for number, down in enumerate(self.down):
            x = down(F.avg_pool2d(x, 2) if number else x)
            beside.append(x)
        beside.pop()
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), beside.pop()], 1))
        logits: Tensor = self.parts(x)
        return logits


def save_segmenter(network: SegmentationNet, path: Path) -> None:
    """Write a network's weights, the large ones in half precision, and what it takes to build it again."""
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {name: json.dumps(getattr(network, name)) for name in FACTS})


def read_segmenter(path: Path) -> SegmentationNet:
    """Read a frozen network, in float32, that ``save_segmenter`` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    other = f"{path} is not a segmenter: give a segmenter.safetensors that a run of the segmentation model wrote"
    try:
        with safe_open(path, "pt") as file:
            facts = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name in FACTS}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(other) from error
    if set(facts) != set(FACTS):
        raise ValueError(other)
    with torch.random.fork_rng([]):  # the weights that are drawn here are replaced
        network = SegmentationNet(**facts)
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    return network.eval().requires_grad_(False)
