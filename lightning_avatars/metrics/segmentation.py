"""How well label maps agree with the true ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.metrics.processes import total


class SegmentationScores(Metric):
    """Share of pixels that are named rightly, and intersection over union of each part.

    Counts are whole numbers over all pixels of all images: their order, batches and processes change nothing.

    Args:
        mask_names: Parts in the order of their numbers in label maps.
    """

    full_state_update = False
    confusion: Tensor  # true part x named part: pixels

    def __init__(self, mask_names: list[str]) -> None:
        super().__init__(dist_sync_fn=total)
        self.mask_names = mask_names
        self.add_state("confusion", torch.zeros(len(mask_names), len(mask_names), dtype=torch.int64), "sum")

    def update(self, found: Tensor, true: Tensor) -> None:
        """Add label maps, whole numbers of one shape, such as N 1 H W or N H W."""
        if found.shape != true.shape:
            raise ValueError(f"label maps must have one shape, got {tuple(found.shape)} and {tuple(true.shape)}")
        count = len(self.mask_names)
        places = true.flatten().long() * count + found.flatten().long()
        self.confusion += torch.bincount(places, minlength=count**2).view(count, count)

    def compute(self) -> dict[str, Tensor]:
        """Return ``accuracy``, ``miou`` and ``iou/<part>``, in [0, 1].

        Only parts that occur in the true maps have an IoU and count in the mean: whoever is scored on the same
        pictures is scored on the same parts. A part that is named where none is true costs the parts it is named for.
        """
        right, true, found = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        iou = right.double() / (true + found - right)
        named = {f"iou/{self.mask_names[i]}": iou[i] for i in true.nonzero()[:, 0].tolist()}
        accuracy = right.sum().double() / true.sum()
        return {"accuracy": accuracy, "miou": iou[true > 0].mean(), **named}
