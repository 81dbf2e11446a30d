"""How well logits name the labels of images, group by group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.labels import groups, one_hot_groups


def label_losses(logits: Tensor, labels: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Cross-entropy of each ``group=value`` group, binary cross-entropy of each plain name: group -> mean over N."""
    one_hot = one_hot_groups(names)
    return {
        group: F.cross_entropy(logits[:, columns], labels[:, columns].argmax(1))
        if group in one_hot
        else F.binary_cross_entropy_with_logits(logits[:, columns], labels[:, columns])
        for group, columns in groups(names).items()
    }


def correct(logits: Tensor, labels: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Whether the likeliest value of each group is the true one: group -> bool, N."""
    one_hot = one_hot_groups(names)
    return {
        group: logits[:, columns].argmax(1) == labels[:, columns].argmax(1)
        if group in one_hot
        else (logits[:, columns.start] > 0) == (labels[:, columns.start] > 0.5)
        for group, columns in groups(names).items()
    }


def probabilities(logits: Tensor, names: list[str]) -> Tensor:
    """Turn logits into probabilities, N x L, that add up to one in each ``group=value`` group."""
    one_hot = one_hot_groups(names)
    parts = [
        logits[:, columns].softmax(1) if group in one_hot else logits[:, columns].sigmoid()
        for group, columns in groups(names).items()
    ]
    return torch.cat(parts, dim=1)
