"""How well logits name the part that each pixel shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def count_parts(mask: Tensor, parts: int) -> Tensor:
    """Count the pixels of each part in label maps of bytes: int64, parts."""
    return torch.bincount(mask.flatten().long(), minlength=parts)


def balanced_cross_entropy(logits: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy in which a part weighs as the square root of its pixels: one number, a mean with such weights.

    Eyes and mouth are less than a percent of a picture: with equal weights they are not named at all for tens of
    thousands of pictures, with the inverse of their number too often.

    Args:
        logits: N parts H W.
        mask: Label maps of bytes, N 1 H W.
        counts: Pixels of each part, from ``count_parts``; those of all processes, where the sum over them is wanted.
    """
    roots = counts.clamp(min=1).to(logits.dtype).sqrt()
    weights = 1 / (roots * roots[counts > 0].sum())
    pixels = logits.permute(0, 2, 3, 1).flatten(0, 2)  # in this shape the loss is deterministic on a GPU too
    return F.cross_entropy(pixels, mask.flatten().long(), weights, reduction="sum")
