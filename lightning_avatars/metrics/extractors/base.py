"""What every network is whose features images are compared in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_avatars.metrics.kernels import Kernel, Polynomial


class Description(NamedTuple):
    """What an extractor says of images."""

    features: Tensor  # float32, N x D
    logits: Tensor | None = None  # float32, N x classes


class Extractor(nn.Module, ABC):
    """A frozen network that describes images of bytes; always float32, without TF32 and autocast.

    Subclasses set the attributes below in their constructor, the network's weights included.
    """

    name: str  # in the names of scores: fd_<name>
    sha256: str  # of the weights' content
    dim: int  # length of the features
    resize: str  # how images are brought to the network's size, for the passport
    precision = "float32"
    batch = 64  # images that the network sees at a time

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "place", torch.zeros(()), persistent=False
        )  # tells the device of those without weights too
        self.classes = 0  # logits
        self.without_classes = ""  # why there are no logits and what to do, where there should be some
        self.label_names: list[str] = []  # what the logits mean, where attributes can be judged by them

    @property
    def device(self) -> torch.device:
        return self.get_buffer("place").device

    @property
    def kernel(self) -> Kernel:
        """The kernel of the kernel distance in these features."""
        return Polynomial()

    def score(self, kind: str) -> str:
        """Name a kind of score in these features: ``fd`` becomes ``fd_avatarnet``."""
        return f"{kind}_{self.name}"

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Resize and scale images of bytes, N 3 H W of any one size, to the float32 input of the network."""

    @abstractmethod
    def describe(self, prepared: Tensor) -> Description:
        """Describe prepared images."""

    def class_probabilities(self, logits: Tensor) -> list[Tensor]:
        """Probabilities of the classes, N x K in float64, of each group of classes that exclude each other."""
        return [logits.double().softmax(1)]

    @torch.no_grad()
    def forward(self, images: Tensor | list[Tensor]) -> Description:
        """Describe images of bytes, N C H W with 1 or 3 channels, or a list of C H W of any sizes."""
        device = self.device
        with torch.autocast(device.type, enabled=False), full_float32():
            pieces = [
                self.describe(self.prepare_all(images[i : i + self.batch])) for i in range(0, len(images), self.batch)
            ]
        logits = [piece.logits for piece in pieces if piece.logits is not None]
        return Description(torch.cat([piece.features for piece in pieces]), torch.cat(logits) if logits else None)

    def prepare_all(self, images: Tensor | list[Tensor]) -> Tensor:
        """Check images, bring them to this device and prepare them, one by one where their sizes differ."""
        if isinstance(images, list):
            return torch.cat([self.prepare_all(image[None]) for image in images])
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{type(self).__name__} describes uint8 images N C H W of 1 or 3 channels; got {images.dtype} of shape "
                f"{tuple(images.shape)}: use images.to_bytes"
            )
        return self.prepare(images.to(self.device).expand(-1, 3, -1, -1))


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep convolutions and products of matrices from being rounded to TF32."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before
