"""The Inception network of 2015 as an extractor: what ``fid``, ``kid`` and ``is`` mean."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.weights import INCEPTION, INCEPTION_FEATURES, content_hash, locate, read
from lightning_avatars.networks.inception import load_inception

SIZE = 299
SCORES = {"fd": "fid", "kd": "kid", "class_score": "is"}


class Inception(Extractor):
    """The TF-2015 Inception network, as torch-fidelity has it.

    Args:
        weights: Its published weights; by default they are looked for in the cache folder.

    Raises:
        FileNotFoundError: There are none; the message says what to do.
        ValueError: The file is not as it was published.
    """

    heads: Tensor | None

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        path = locate(INCEPTION, INCEPTION_FEATURES, path=weights)
        tensors = read(path)
        self.network = load_inception(tensors)
        self.name, self.dim = "inception", 2048
        self.sha256 = content_hash({name: t for name, t in tensors.items() if not name.startswith("fc.")})
        self.resize = f"bilinear as in TensorFlow 1 (no half pixels, no antialiasing), to {SIZE} x {SIZE}"
        self.register_buffer("heads", tensors.get("fc.weight"))
        if self.heads is not None:
            self.classes, self.without_classes = len(self.heads), ""
        else:
            self.without_classes = (
                f"{path.name} lacks the last layer, which names the classes: put {INCEPTION.file} in its place, or run "
                f"`lightning-avatars weights --fetch {INCEPTION.name}`"
            )

    def score(self, kind: str) -> str:
        return SCORES.get(kind, kind)

    def prepare(self, images: Tensor) -> Tensor:
        x = images.to(torch.float32, memory_format=torch.channels_last)
        return (tensorflow_resize(x, SIZE) - 128) / 128

    def describe(self, prepared: Tensor) -> Description:
        features = self.network(prepared)
        # without the bias, as torch-fidelity's "logits_unbiased": the graph of 2015 is read before it is added
        return Description(features, None if self.heads is None else features @ self.heads.T)


def tensorflow_resize(x: Tensor, size: int) -> Tensor:
    """Resize floats N C H W bilinearly as TensorFlow 1 does: pixel i of the output lies at i * input / output.

    With the last row and column repeated once and ``size + 1`` pixels asked for, corners aligned, that is where PyTorch
    looks too: at i * (input + 1 - 1) / (size + 1 - 1).
    """
    if x.shape[-2:] == (size, size):
        return x
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(x, (size + 1, size + 1), mode="bilinear", align_corners=True)[..., :size, :size]
