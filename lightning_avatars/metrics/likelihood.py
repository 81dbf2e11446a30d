"""Bounds of the likelihood of images, and how much of a codebook is used."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.metrics.processes import total


def evidence_lower_bound(log_weights: Tensor) -> Tensor:
    """Evidence lower bound of each image's log-likelihood (Kingma and Welling 2014, Eq. 2), N, in float64.

    Args:
        log_weights: ln p(x | z) + ln p(z) - ln q(z | x) in nats of k latents z ~ q(z | x), N k.
    """
    return check(log_weights).double().mean(1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Importance-weighted lower bound of each image's log-likelihood (Burda et al. 2016, Eq. 8), N, in float64.

    It is the evidence lower bound for k = 1 and grows with k to the log-likelihood, in expectation.

    Args:
        log_weights: ln p(x | z) + ln p(z) - ln q(z | x) in nats of k latents z ~ q(z | x), N k.
    """
    return check(log_weights).double().logsumexp(1) - math.log(log_weights.shape[1])


def check(log_weights: Tensor) -> Tensor:
    """Refuse what are not samples for each image."""
    if log_weights.ndim != 2 or not log_weights.shape[1]:
        raise ValueError(
            f"logarithms of weights are N x samples, with at least one sample; got {tuple(log_weights.shape)}"
        )
    return log_weights


def dimensions(channels: int, height: int, width: int, border: int = 0) -> int:
    """Count the numbers that make an image.

    A border that is the same around all pictures says nothing of them: MNIST's 28 x 28 pixels are 784 dimensions also
    where they are shown as 32 x 32.

    Args:
        channels: Of the image.
        height: In pixels, the border included.
        width: In pixels, the border included.
        border: Width of the empty border, in pixels.
    """
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"a border of {border} pixels leaves nothing of an image of {height} x {width}")
    return channels * (height - 2 * border) * (width - 2 * border)


def bits_per_dimension(nats: Tensor, dimensions: int) -> Tensor:
    """Bits that each number of an image takes, on the average, of its log-likelihood in nats."""
    return -nats / (math.log(2) * dimensions)


def perplexity(counts: Tensor) -> Tensor:
    """Perplexity of words that were used so often, K: the number of equally used ones with that entropy."""
    share = counts.double() / counts.sum().clamp(min=1)
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def share_used(counts: Tensor) -> Tensor:
    """Share of words, K, that were used at all."""
    return (counts > 0).double().mean()


class CodebookUse(Metric):
    """Perplexity of a codebook's words and the share of them that were used.

    Args:
        codebook: Number of words.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, codebook: int) -> None:
        super().__init__(dist_sync_fn=total)
        self.add_state("counts", torch.zeros(codebook, dtype=torch.int64), "sum")

    def update(self, counts: Tensor) -> None:
        """Add how often each word was used, whole numbers, K."""
        self.counts += counts.to(self.counts)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the perplexity and the share of words that were used."""
        return perplexity(self.counts), share_used(self.counts)
