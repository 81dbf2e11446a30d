"""How labels enter networks, and what discriminators say of labels and codes.

The length of a label vector does not matter, only its direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_avatars.networks.base import Verdict


def check_labels(labels: Tensor | None, label_dim: int) -> Tensor:
    """Return ``labels`` if they are N x label_dim.

    Raises:
        ValueError: If they are absent or of another shape.
    """
    if labels is None or labels.ndim != 2 or labels.shape[1] != label_dim:
        given = "none" if labels is None else f"a tensor of shape {tuple(labels.shape)}"
        raise ValueError(
            f"this network was built with label_dim={label_dim}: give it labels N x {label_dim}, got {given}"
        )
    return labels


class LabelEmbedding(nn.Module):
    """A learned vector for each label, summed over the labels an image has.

    Labels are brought to unit length first: images with one label (a class) and with ten (attributes) get embeddings
    of equal variance. Labels of zeros, which ``label_dropout`` makes, have an embedding of zeros: the neutral one.

    Args:
        label_dim: Length of the label vectors.
        embedding_dim: Length of the embedding.
        std: Standard deviation of the embedding at the start.
    """

    def __init__(self, label_dim: int, embedding_dim: int, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(label_dim, embedding_dim) * std)

    def forward(self, labels: Tensor | None) -> Tensor:
        labels = check_labels(labels, self.weight.shape[0])
        return normalize(labels.to(self.weight.dtype)) @ self.weight


class ProjectionHead(nn.Module):
    """One logit from a feature vector, always in float32 (Miyato and Koyama 2018, Eq. 4).

    ``psi(phi) + <V y, phi>``, with ``psi`` linear; without labels only the first term.

    Args:
        features: Length of the feature vector phi.
        label_dim: Length of the label vectors y; 0 for none.
    """

    heads: dict[str, int]  # lengths of what it says beside the logit, by name

    def __init__(self, features: int, label_dim: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.embedding = LabelEmbedding(label_dim, features, std=features**-0.5) if label_dim else None
        self.heads = {}

    def verdict(self, phi: Tensor, labels: Tensor | None = None) -> Verdict:
        """Say all there is to say of features N x features."""
        return Verdict([self(phi, labels)])

    def forward(self, phi: Tensor, labels: Tensor | None = None) -> Tensor:
        """Judge features N x features; the logits have shape N."""
        with torch.autocast(phi.device.type, enabled=False):
            phi = phi.to(self.linear.weight.dtype)
            logits: Tensor = self.linear(phi).squeeze(1)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * phi).sum(1)
            return logits


class ClassHead(ProjectionHead):
    """One logit without labels, and one for each label: what the image shows (ACGAN, Odena et al. 2017).

    The labels are the head ``class`` of the verdict, which ``terms.classification.Classification`` trains.

    Args:
        features: Length of the feature vector.
        label_dim: Length of the label vectors.
    """

    def __init__(self, features: int, label_dim: int = 0) -> None:
        super().__init__(features)
        if label_dim < 1:
            raise ValueError("a ClassHead names labels, but label_dim is 0: set conditional, and use data with labels")
        self.classes = nn.Linear(features, label_dim)
        nn.init.normal_(self.classes.weight, std=features**-0.5)
        nn.init.zeros_(self.classes.bias)
        self.heads = {"class": label_dim}

    def verdict(self, phi: Tensor, labels: Tensor | None = None) -> Verdict:
        with torch.autocast(phi.device.type, enabled=False):
            return Verdict([self(phi)], heads={"class": self.classes(phi.to(self.classes.weight.dtype))})


class CodeHead(ProjectionHead):
    """A projection head, and a small network that finds the generator's codes (InfoGAN, Chen et al. 2016).

    What it finds is the head ``code`` of the verdict, which ``terms.information.Information`` trains. Departure: no
    batch norm in the small network.

    Args:
        features: Length of the feature vector.
        label_dim: Length of the label vectors; 0 for none.
        code_dim: How many numbers tell the codes; the command line takes it from the prior.
        hidden: Units between the features and the codes.
    """

    def __init__(self, features: int, label_dim: int = 0, code_dim: int = 0, hidden: int = 128) -> None:
        super().__init__(features, label_dim)
        if code_dim < 1:
            raise ValueError(
                f"a CodeHead finds codes, but code_dim is {code_dim}: use a prior that has some, such as Codes"
            )
        self.codes = nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, code_dim))
        self.heads = {"code": code_dim}

    def verdict(self, phi: Tensor, labels: Tensor | None = None) -> Verdict:
        with torch.autocast(phi.device.type, enabled=False):
            codes = self.codes(phi.to(self.linear.weight.dtype))
        return Verdict([self(phi, labels)], heads={"code": codes})
