"""Whether images show the attributes that they were asked for, judged by a recogniser."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.labels import groups
from lightning_avatars.metrics.processes import total
from lightning_avatars.objectives.recognition import correct


class AttributeAccuracy(Metric):
    """Share of images whose recognised attribute is the one asked for, by group.

    Args:
        label_names: Names of the label vectors' columns; ``group=value`` columns of one group exclude each other.
    """

    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, label_names: list[str]) -> None:
        super().__init__(dist_sync_fn=total)
        self.label_names, self.groups = label_names, list(groups(label_names))
        self.add_state("right", torch.zeros(len(self.groups), dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add recognised logits and wanted labels, both N x L."""
        for i, hits in enumerate(correct(logits, labels, self.label_names).values()):
            self.right[i] += hits.sum()
        self.count += len(logits)

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracy of each group, in [0, 1]."""
        return dict(zip(self.groups, self.right / self.count, strict=True))
