"""The features of all images of a set, each at its own place, gathered from all processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_avatars.metrics.processes import total


class FeatureBank(Metric):
    """Features of ``count`` images by their index, whichever process described them.

    Args:
        count: Images.
        dim: Length of the features.
        dtype: Kind of numbers that are kept.
    """

    full_state_update = False
    features: Tensor
    filled: Tensor

    def __init__(self, count: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dist_sync_fn=total)
        self.add_state("features", torch.zeros(count, dim, dtype=dtype), "sum")
        self.add_state("filled", torch.zeros(count, dtype=torch.int64), "sum")

    def update(self, index: Tensor, features: Tensor) -> None:
        """Put features, N x D, to the places of their images, N.

        Raises:
            ValueError: An index is not that of an image of this set.
        """
        check_index(index, len(self.features))
        index = index.to(self.features.device)
        self.features[index] = features.to(self.features)
        self.filled[index] += 1

    def compute(self) -> Tensor:
        """Return all features, count x D, the same on all processes.

        Raises:
            ValueError: An image has no features, or has been described twice.
        """
        missing, twice = int((self.filled == 0).sum()), int((self.filled > 1).sum())
        if missing or twice:
            raise ValueError(
                f"of {len(self.filled)} images, {missing} have no features and {twice} have been described more "
                "than once: every image must be described once, by one process"
            )
        return self.features


def check_index(index: Tensor, count: int) -> None:
    """Check that images' indices lie in their set."""
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= count):
        raise ValueError(
            f"indices {int(index.min())} to {int(index.max())} are not all those of {count} images (0 to {count - 1})"
        )
