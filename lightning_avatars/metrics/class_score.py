"""How sure a classifier is of each image and how varied its answers are (Salimans et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.metrics.features import check_index
from lightning_avatars.metrics.intervals import without_each
from lightning_avatars.metrics.processes import total


class ClassScore(Metric):
    """``exp(E KL(p(y|x) || p(y)))`` over all images; with several groups of classes, the KL's mean over the groups.

    For one group this is the Inception Score over all images at once, from sums that add up over processes. Of N images
    and K classes it lies between 1 and min(N, K).

    Args:
        sizes: Number of classes of each group.
        count: Images.
        blocks: Blocks of the jackknife, and splits of the published protocol.
    """

    full_state_update = False
    images: Tensor
    total: Tensor
    certainty: Tensor

    def __init__(self, sizes: list[int], count: int, blocks: int = 10) -> None:
        super().__init__(dist_sync_fn=total)
        self.sizes, self.count, self.blocks = sizes, count, min(blocks, count)
        self.add_state("images", torch.zeros(self.blocks, dtype=torch.float64), "sum")
        self.add_state("total", torch.zeros(self.blocks, sum(sizes), dtype=torch.float64), "sum")
        self.add_state("certainty", torch.zeros(self.blocks, len(sizes), dtype=torch.float64), "sum")

    def update(self, probabilities: list[Tensor], index: Tensor) -> None:
        """Add the probabilities of images.

        Args:
            probabilities: Of the classes of each group, each N x K.
            index: Of the images, N.
        """
        check_index(index, self.count)
        if [p.shape[1] for p in probabilities] != self.sizes:
            raise ValueError(f"groups of {[p.shape[1] for p in probabilities]} classes, expected {self.sizes}")
        device = self.images.device
        block = index.to(device) * self.blocks // self.count
        each = [p.to(device).double() for p in probabilities]
        self.images.index_add_(0, block, torch.ones_like(block, dtype=torch.float64))
        self.total.index_add_(0, block, torch.cat(each, 1))
        self.certainty.index_add_(0, block, torch.stack([torch.xlogy(p, p).sum(1) for p in each], 1))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the score of all images and the scores without each block, B."""
        sums = self.images, self.total, self.certainty
        return self.score(*(x.sum(0) for x in sums)), self.score(*(without_each(x) for x in sums))

    def splits(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the blocks' own scores, as the published protocol of 10 splits does.

        Of the states at hand: on several processes, ask ``with metric.sync_context(): metric.splits()``.
        """
        scores = self.score(self.images, self.total, self.certainty)
        return scores.mean(), scores.std(correction=0)

    def score(self, images: Tensor, total: Tensor, certainty: Tensor) -> Tensor:
        """Score from sums, each with any leading dimensions."""
        marginal = total / images[..., None]
        groups = torch.split(torch.xlogy(marginal, marginal), self.sizes, -1)
        divergence = certainty / images[..., None] - torch.stack([group.sum(-1) for group in groups], -1)
        return divergence.mean(-1).exp()
