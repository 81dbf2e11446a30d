"""How labels enter generators and discriminators; the length of a label vector does not matter, only its direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


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
    of equal variance.

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

    def __init__(self, features: int, label_dim: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.normal_(self.linear.weight, std=features**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.embedding = LabelEmbedding(label_dim, features, std=features**-0.5) if label_dim else None

    def forward(self, phi: Tensor, labels: Tensor | None = None) -> Tensor:
        """Judge features N x features; the logits have shape N."""
        with torch.autocast(phi.device.type, enabled=False):
            phi = phi.to(self.linear.weight.dtype)
            logits: Tensor = self.linear(phi).squeeze(1)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * phi).sum(1)
            return logits
