"""A recogniser of attributes as an extractor: AvatarNet, MNISTNet, or one's own."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from lightning_avatars.images import to_float
from lightning_avatars.labels import groups
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.weights import content_hash
from lightning_avatars.networks.recognizer import load_recognizer
from lightning_avatars.objectives.recognition import probabilities

SHIPPED = Path(__file__).parents[1] / "recognizers"


class Recognizer(Extractor):
    """A network of this project that names attributes, trained and shipped here.

    Args:
        weights: ``avatarnet``, ``mnistnet``, or the path of a ``recognizer.safetensors`` that a run has written.

    Raises:
        FileNotFoundError: neither; the message lists the nearest names.
    """

    def __init__(self, weights: str = "avatarnet") -> None:
        super().__init__()
        path = Path(weights) if Path(weights).is_file() else SHIPPED / f"{weights}.safetensors"
        if not path.is_file():
            known = sorted(p.stem for p in SHIPPED.glob("*.safetensors"))
            raise FileNotFoundError(
                f"no recogniser is called {weights!r} and there is no such file; there are "
                f"{', '.join(get_close_matches(weights, known) or known)}"
            )
        self.network = load_recognizer(path)
        self.name, self.sha256 = path.stem, content_hash(self.network.state_dict())
        self.dim, self.label_names = self.network.heads.in_features, self.network.label_names
        self.classes = len(self.label_names)
        self.resize = f"bilinear, antialiased, to {self.network.resolution} x {self.network.resolution}"

    def prepare(self, images: Tensor) -> Tensor:
        x = to_float(images)
        return self.network.resized(x if self.network.channels == 3 else x.mean(1, keepdim=True))

    def describe(self, prepared: Tensor) -> Description:
        features = self.network.features(prepared)
        return Description(features, self.network.heads(features))

    def class_probabilities(self, logits: Tensor) -> list[Tensor]:
        p = probabilities(logits.double(), self.label_names)
        columns = groups(self.label_names).values()
        return [p[:, c] if c.stop - c.start > 1 else two(p[:, c]) for c in columns]


def two(p: Tensor) -> Tensor:
    """Probabilities of a label and of its absence, N x 2, from those of the label, N x 1."""
    return torch.cat([p, 1 - p], 1)
