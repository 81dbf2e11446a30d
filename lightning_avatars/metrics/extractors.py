"""Networks whose features images are compared in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_avatars.images import to_float
from lightning_avatars.networks.recognizer import load_recognizer

WEIGHTS = Path(__file__).parent / "weights"


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep convolutions and products of matrices from being rounded to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Extractor(nn.Module):
    """A shipped recogniser as a feature extractor; always float32.

    Args:
        name: ``avatarnet``, ``mnistnet``, or the path of a file written by ``save_recognizer``.

    Raises:
        FileNotFoundError: neither; the message lists the nearest names.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        path = Path(name) if Path(name).is_file() else WEIGHTS / f"{name}.safetensors"
        if not path.is_file():
            known = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
            raise FileNotFoundError(
                f"no extractor is called {name!r} and there is no such file; there are "
                f"{', '.join(get_close_matches(name, known) or known)}"
            )
        self.name, self.sha256 = path.stem, hashlib.sha256(path.read_bytes()).hexdigest()
        self.network = load_recognizer(path).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, N x D, and attribute logits, N x L, of images of bytes, N C H W."""
        with torch.autocast(images.device.type, enabled=False), full_float32():
            x = to_float(images)
            channels = self.network.channels
            x = x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x
            features = self.network.features(x if channels == x.shape[1] else x.mean(1, keepdim=True))
            return features, self.network.heads(features)
