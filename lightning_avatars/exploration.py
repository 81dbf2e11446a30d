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


class Moments:
    """Sums over labelled latents, a batch at a time: how they spread, and where those with each label lie.

    Args:
        dim: Length of the latents.
        labels: Length of the label vectors.
    """

    def __init__(self, dim: int, labels: int = 0) -> None:
        self.count = 0
        self.total = torch.zeros(dim, dtype=torch.float64)
        self.squares = torch.zeros(dim, dtype=torch.float64)
        self.counts = torch.zeros(labels, dtype=torch.float64)  # of those with each label
        self.totals = torch.zeros(labels, dim, dtype=torch.float64)

    def add(self, latents: Tensor, labels: Tensor) -> None:
        """Add latents, N x dim, whose labels, N x labels, are 1 where they have them and 0 where not."""
        latents, labels = latents.double().cpu(), labels.double().cpu()
        self.count += len(latents)
        self.total += latents.sum(0)
        self.squares += latents.square().sum(0)
        self.counts += labels.sum(0)
        self.totals += labels.T @ latents

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each entry; one that no picture moves is not used (Burda et al. 2016, Sec. 5)."""
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()

    def vector(self, label: int) -> Tensor:
        """Mean of the latents with a label minus mean of those without (Larsen et al. 2016, Sec. 3.1)."""
        having = self.counts[label]
        return self.totals[label] / having - (self.total - self.totals[label]) / (self.count - having)
