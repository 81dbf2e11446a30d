"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian (Heusel et al. 2017, Eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.metrics.features import check_index
from lightning_avatars.metrics.processes import total


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, in float64.

    Args:
        mean_a: D.
        cov_a: D x D.
        mean_b: D.
        cov_b: D x D.
    """
    return frechet_to(square_root(cov_a), mean_a, cov_a, mean_b, cov_b)


def square_root(cov: Tensor) -> Tensor:
    """Symmetric root of a covariance, D x D in float64; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(cov.double())
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_to(root: Tensor, mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> Tensor:
    """Squared Fréchet distance to a Gaussian whose root is known, for many distances to one reference.

    ``tr sqrt(A B)`` is the sum of the square roots of the eigenvalues of the symmetric ``sqrt(A) B sqrt(A)``, which are
    real and not negative whatever the rounding, as those of a general matrix root are not.

    Args:
        root: ``square_root(cov)``, D x D.
        mean: D.
        cov: D x D.
        other_mean: D.
        other_cov: D x D.
    """
    mean, cov, other_mean, other_cov = (x.double() for x in (mean, cov, other_mean, other_cov))
    cross: Tensor = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    squared = (mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * cross
    return squared.clamp(min=0)  # rounding may take that of two equal sets below


class Moments(Metric):
    """Mean and covariance of feature vectors, from float64 sums that add up exactly over processes.

    The sums are those of the raw products, so that the covariance loses the digits by which a squared mean outweighs
    its variance: 1e-14 of Inception's, whose features lie near 0.4, and 1e-8 of features of mean 1000 and variance 1.

    Args:
        dim: Length of the vectors.
        blocks: Blocks of the jackknife whose sums are kept apart.
        count: Images there will be; needed where there are several blocks.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, dim: int, blocks: int = 1, count: int | None = None) -> None:
        super().__init__(dist_sync_fn=total)
        if blocks > 1 and count is None:
            raise ValueError(
                f"which of {blocks} blocks an image belongs to depends on how many there are: give `count`"
            )
        self.images, self.blocks = count, blocks if count is None else min(blocks, count)
        self.add_state("count", torch.zeros(self.blocks, dtype=torch.float64), "sum")
        self.add_state("total", torch.zeros(self.blocks, dim, dtype=torch.float64), "sum")
        self.add_state("outer", torch.zeros(self.blocks, dim, dim, dtype=torch.float64), "sum")

    def update(self, features: Tensor, index: Tensor | None = None) -> None:
        """Add feature vectors, N x D, to the sums of their blocks.

        Args:
            features: N x D.
            index: Of the images, N; not needed where there is one block.
        """
        features = features.to(self.total.device).double()
        if self.blocks == 1:
            self.add(0, features)
            return
        if index is None or self.images is None:
            raise ValueError(f"give the images' indices: their sums are kept apart in {self.blocks} blocks")
        check_index(index, self.images)
        block = index.to(features.device) * self.blocks // self.images
        for number in torch.unique(block).tolist():
            self.add(number, features[block == number])

    def add(self, block: int, features: Tensor) -> None:
        """Add feature vectors to the sums of a block."""
        self.count[block] += len(features)
        self.total[block] += features.sum(0)
        self.outer[block].addmm_(features.T, features)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean, D, and unbiased covariance, D x D, of all images."""
        return gaussian(self.count.sum(), self.total.sum(0), self.outer.sum(0))

    def leave_one_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mean and covariance without each block.

        Of the states at hand: on several processes, ask within ``metric.sync_context()``.
        """
        count, total, outer = self.count.sum(), self.total.sum(0), self.outer.sum(0)
        for block in range(self.blocks):
            yield gaussian(count - self.count[block], total - self.total[block], outer - self.outer[block])


def gaussian(count: Tensor, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance from the number of vectors, their sum and the sum of their outer products."""
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {int(count)}")
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)
