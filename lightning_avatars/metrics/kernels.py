"""Kernels that compare feature vectors, from their inner products, and the distance of two sets in a kernel's mean."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Kernel(ABC):
    """A positive definite function of two vectors; distributions are compared by its mean (MMD)."""

    @abstractmethod
    def __call__(self, inner: Tensor, norms_a: Tensor, norms_b: Tensor, dim: int) -> Tensor:
        """Kernel values, N x M, in a new tensor.

        Args:
            inner: Inner products, N x M; left as they are.
            norms_a: Squared norms of the first vectors, N.
            norms_b: Squared norms of the second vectors, M.
            dim: Length of the vectors.
        """


class Polynomial(Kernel):
    """``(x.y / dim + 1)^3`` (KID, Binkowski et al. 2018, Eq. 4)."""

    def __call__(self, inner: Tensor, norms_a: Tensor, norms_b: Tensor, dim: int) -> Tensor:
        return (inner / dim).add_(1).pow_(3)


class Gaussian(Kernel):
    """``exp(-|x - y|^2 / 2 sigma^2)`` (CMMD, Jayasumana et al. 2024, with sigma = 10), times ``scale``.

    Args:
        sigma: Width.
        scale: Factor that brings the distance near 1; CMMD's is 1000.
    """

    def __init__(self, sigma: float = 10.0, scale: float = 1000.0) -> None:
        self.sigma, self.scale = sigma, scale

    def __call__(self, inner: Tensor, norms_a: Tensor, norms_b: Tensor, dim: int) -> Tensor:
        squared = torch.sub(norms_b, inner, alpha=2).add_(norms_a[:, None]).clamp_(min=0)
        return squared.mul_(-0.5 / self.sigma**2).exp_().mul_(self.scale)


def mmd(xx: Tensor, xy: Tensor, yy: Tensor, counts: Tensor, others: int) -> tuple[Tensor, Tensor]:
    """Unbiased squared distance of two sets in a kernel's mean (Gretton et al. 2012, Eq. 3), from sums of the kernel.

    For KID this is the estimator over all images at once: the mean over random subsets that is often reported is the
    same number, with noise, and is equal with one subset of all. CMMD's paper defines this unbiased estimator too; its
    published code leaves the diagonal in, which adds about ``scale * (1 / N + 1 / M)`` times one minus the mean kernel.
    The value may be a little below 0 for two sets of one distribution.

    Args:
        xx: Sums over pairs of different images of the first set, by their blocks, B x B.
        xy: Sums over pairs of an image of the first set and one of the second, by the first one's block, B.
        yy: Sum over pairs of different images of the second set.
        counts: Images of the first set in each block, B.
        others: Images of the second set.

    Returns:
        The value, and the values without each block, B; nan where a set has fewer than 2 images.
    """
    within = (
        (torch.as_tensor(yy, dtype=xx.dtype, device=xx.device) / (others * (others - 1.0)))
        if others > 1
        else xx.new_tensor(torch.nan)
    )

    def distance(xx: Tensor, xy: Tensor, count: Tensor) -> Tensor:
        return xx / (count * (count - 1)) + within - 2 * xy / (count * others)

    less = xx.sum() - xx.sum(0) - xx.sum(1) + xx.diagonal()
    value = distance(xx.sum(), xy.sum(), counts.sum())
    return value, distance(less, xy.sum() - xy, counts.sum() - counts)
