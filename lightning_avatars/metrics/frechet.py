"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian (Heusel et al. 2017, Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, in float64.

    ``tr sqrt(A B)`` is the sum of the square roots of the eigenvalues of the symmetric ``sqrt(A) B sqrt(A)``, which are
    real and not negative whatever the rounding, as those of a general matrix root are not.

    Args:
        mean_a: D.
        cov_a: D x D.
        mean_b: D.
        cov_b: D x D.
    """
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross: Tensor = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross


class Moments(Metric):
    """Mean and covariance of feature vectors, from float64 sums that add up exactly over processes.

    Args:
        dim: Length of the vectors.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), "sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), "sum")

    def update(self, features: Tensor) -> None:
        """Add feature vectors, N x D."""
        features = features.double()
        self.count += len(features)
        self.total += features.sum(0)
        self.outer += features.T @ features

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean, D, and unbiased covariance, D x D."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {int(self.count)}")
        mean = self.total / self.count
        return mean, (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
