"""A set of images as an extractor sees it, and its scores against real pictures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.evaluation.real import Against
from lightning_avatars.evaluation.scores import PAIRS
from lightning_avatars.metrics.class_score import ClassScore
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.frechet import Moments, frechet_to, square_root
from lightning_avatars.metrics.intervals import BLOCKS, block_counts
from lightning_avatars.metrics.kernels import mmd
from lightning_avatars.metrics.neighbours import inner, outer, precision_recall_density_coverage

KINDS = ("fd", "kd", "precision", "recall", "density", "coverage")  # and class_score, where there are classes

Estimate = tuple[Tensor, Tensor]  # a value, and the values without each block


class Seen(NamedTuple):
    """Some pictures on their way to what judges them."""

    place: Tensor  # their places among all, N
    images: Tensor | list[Tensor]  # bytes
    descriptions: dict[str, Description]  # by the extractor's name
    labels: Tensor | None  # that they were asked to show, N L


class Distribution:
    """Sums over a known number of images, in blocks, on any number of processes.

    Args:
        extractor: Describes the images.
        count: How many images there will be, over all processes.
        device: Where sums in float64 are kept.
        blocks: Blocks of the jackknife.
    """

    def __init__(self, extractor: Extractor, count: int, device: torch.device, blocks: int = BLOCKS) -> None:
        self.extractor, self.count, self.device = extractor, count, device
        self.moments = Moments(extractor.dim, blocks, count).to(device)
        self.bank = FeatureBank(min(count, PAIRS), extractor.dim).to(device)
        self.classes: ClassScore | None = None
        if extractor.classes:
            sizes = [p.shape[1] for p in extractor.class_probabilities(torch.zeros(1, extractor.classes))]
            self.classes = ClassScore(sizes, count, blocks).to(device)

    def update(self, index: Tensor, description: Description) -> None:
        """Add described images; ``index`` are their places among all, N."""
        features, kept = description.features.to(self.device), index < min(self.count, PAIRS)
        self.moments.update(features, index)
        self.bank.update(index[kept], features[kept.to(self.device)])
        if self.classes is not None and description.logits is not None:
            self.classes.update(self.extractor.class_probabilities(description.logits.to(self.device)), index)

    def estimates(self, real: Against) -> dict[str, Estimate]:
        """Take all scores against real pictures: kind -> value, and the values without each block."""
        features, kernel = self.bank.compute(), self.extractor.kernel
        if not features.isfinite().all():
            rank_zero_warn(
                f"{self.extractor.name} describes some images by numbers that are not finite: its scores are nan"
            )
            unknown = features.new_tensor(torch.nan), features.new_full((2,), torch.nan)
            return dict.fromkeys(KINDS, unknown)
        among = inner(features, kernel, BLOCKS)
        between = outer(features, real.pairs, among, real.among, kernel, BLOCKS)
        counts = block_counts(len(features), BLOCKS).to(self.device)
        found = {
            "fd": self.frechet(real),
            "kd": mmd(among.kernel, between.kernel, real.among.kernel.sum(), counts, len(real.pairs)),
            **precision_recall_density_coverage(between),
        }
        return found | ({"class_score": self.classes.compute()} if self.classes is not None else {})

    def frechet(self, real: Against) -> Estimate:
        """Fréchet distance to real pictures; without each block by its sums, which are there already."""
        value = frechet_to(real.root, real.mean, real.covariance, *self.moments.compute())
        with self.moments.sync_context():
            less = [frechet_to(real.root, real.mean, real.covariance, *m) for m in self.moments.leave_one_out()]
        return value, torch.stack(less)

    def against(self) -> Against:
        """Make these images what others are compared with."""
        mean, covariance = self.moments.compute()
        features = self.bank.compute()
        return Against(mean, covariance, square_root(covariance), features, inner(features, self.extractor.kernel, 1))
