"""A small residual network that names the attributes of faces, and whose features compare sets of images.

Made for two processor cores: half of the resolution is given up at once, and one block of two convolutions (He et al.
2016) works at each of three smaller sizes. Faces are aligned, so each channel is pooled with weights of its own for
every place (the global depthwise convolution of MobileFaceNets, Chen et al. 2018): brows are not mouths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_avatars.networks.layers.normalization import BatchNorm2d


class Block(nn.Module):
    """Two convolutions beside a shortcut; halves height and width.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.shortcut(x), inplace=True)


class RecognitionNet(nn.Module):
    """Images to one logit per label.

    Args:
        resolution: Height and width that the network works at; other images are resized inside, antialiased.
        channels: Channels of the images.
        label_names: What the logits mean: ``group=value`` for values that exclude each other, else plain names.
        width: Channels at half the resolution; the features are eight times as many.
    """

    def __init__(
        self, resolution: int = 64, channels: int = 3, label_names: Sequence[str] = (), width: int = 24
    ) -> None:
        super().__init__()
        self.resolution, self.channels, self.width = resolution, channels, width
        self.label_names = list(label_names)
        self.stages = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False),
            BatchNorm2d(width),
            nn.ReLU(inplace=True),
            Block(width, 2 * width),
            Block(2 * width, 4 * width),
            Block(4 * width, 8 * width),
        )
        size = math.ceil(resolution // 2 / 8)  # one stride that rounds down, three that round up
        self.pool = nn.Sequential(
            nn.Conv2d(8 * width, 8 * width, size, groups=8 * width, bias=False),
            BatchNorm2d(8 * width),
        )
        self.heads = nn.Linear(8 * width, len(self.label_names))
        self.to(memory_format=torch.channels_last)

    def resized(self, x: Tensor) -> Tensor:
        """Bring images, N C H W, to the network's resolution."""
        if x.shape[-2:] == (self.resolution, self.resolution):
            return x
        if not x.requires_grad:
            return resampled(x, self.resolution, self.resolution)
        with torch.autocast(x.device.type, enabled=False):  # torch's own has no deterministic gradient on a GPU
            height, width = (weights(side, self.resolution, x) for side in x.shape[-2:])
            return height @ x @ width.T

    def features(self, x: Tensor) -> Tensor:
        """Describe images, N C H W in [-1, 1], by N x 8 width numbers: the input of the heads."""
        x = self.resized(x).contiguous(memory_format=torch.channels_last)
        pooled: Tensor = self.pool(self.stages(x))
        return pooled.flatten(1).float()

    def forward(self, x: Tensor) -> Tensor:
        """Name what images, N C H W in [-1, 1], show: logits, N x labels."""
        logits: Tensor = self.heads(self.features(x))
        return logits


def resampled(x: Tensor, height: int, width: int) -> Tensor:
    """Resize images, N C H W, bilinearly, with a filter that grows as they shrink."""
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True)


def weights(side: int, resized: int, like: Tensor) -> Tensor:
    """Tell how much of ``side`` rows each of ``resized`` rows has, resized x side, on the device of ``like``."""
    rows = torch.eye(side, dtype=like.dtype, device=like.device)
    return resampled(rows[None, None], resized, side)[0, 0]


def save_recognizer(network: RecognitionNet, path: Path) -> None:
    """Write a network's weights, the large ones in half precision, and what it takes to build it again."""
    facts = {name: getattr(network, name) for name in ("resolution", "channels", "label_names", "width")}
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {name: json.dumps(value) for name, value in facts.items()})


def load_recognizer(path: Path) -> RecognitionNet:
    """Read a frozen network, in float32, that ``save_recognizer`` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    with safe_open(path, "pt") as file:
        facts = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name != "format"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if set(facts) != {"resolution", "channels", "label_names", "width"}:
        raise ValueError(f"{path} is not a recogniser: give a file that save_recognizer wrote")
    with torch.random.fork_rng([]):  # the weights that are drawn here are replaced
        network = RecognitionNet(**facts)
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    return network.eval().requires_grad_(False)
