"""Ways through a latent space: between points, along directions, and how directions are found without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Go from ``a`` to ``b``, vectors of length D, in a straight line: T D for shares ``t``, T."""
    return torch.lerp(a, b, t[:, None])


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Go from ``a`` to ``b`` along a great circle, T D (Shoemake 1985); lengths are interpolated too.

    Normal vectors in many dimensions lie near a sphere: a straight line between two passes where none of them are.
    """
    cosine = (normalize(a, dim=0) * normalize(b, dim=0)).sum().clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-6:
        return linear(a, b, t)
    on_sphere = (
        ((1 - t) * angle).sin()[:, None] * normalize(a, dim=0) + (t * angle).sin()[:, None] * normalize(b, dim=0)
    ) / angle.sin()
    return on_sphere * torch.lerp(a.norm(), b.norm(), t)[:, None]


def factorised(weight: Tensor, count: int) -> Tensor:
    """Directions, count x D, that change most what the first layer makes of a vector (SeFa, Shen and Zhou 2021, Eq. 6).

    Args:
        weight: The layer's weights, outputs x D, of as many layers as there are.
        count: Number of directions.

    Returns:
        Unit eigenvectors of ``weight^T weight``, those of the largest eigenvalues first, each with its largest entry
        positive.
    """
    return leading(weight.double().T @ weight.double(), count)[0].to(weight.dtype)


def principal(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Directions, count x D, in which points, N x D, vary most, and their deviations (GANSpace 2020, Sec. 2)."""
    centred = points.double() - points.double().mean(0)
    vectors, variances = leading(centred.T @ centred / (len(points) - 1), count)
    return vectors.to(points.dtype), variances.clamp(min=0).sqrt().to(points.dtype)


def leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors, as rows, and eigenvalues of a symmetric matrix, the largest first; largest entries are positive."""
    if not 1 <= count <= len(matrix):
        raise ValueError(f"there are 1 to {len(matrix)} directions in this space, asked for {count}")
    values, vectors = torch.linalg.eigh(matrix)
    rows = vectors.T.flip(0)[:count]
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return rows * signs, values.flip(0)[:count]
