"""Whether samples are copies of training pictures."""

from __future__ import annotations

import torch

from lightning_avatars.data.pictures import Pictures
from lightning_avatars.evaluation.distribution import Seen
from lightning_avatars.evaluation.real import Real
from lightning_avatars.evaluation.scores import PAIRS, Score, named
from lightning_avatars.evaluation.track import Track
from lightning_avatars.metrics.extractors.pixels import Pixels
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.intervals import BLOCKS
from lightning_avatars.metrics.neighbours import copied


class CopyCheck:
    """The estimated share of samples that are copies, by their nearest neighbours in training and held-out pictures.

    Args:
        count: How many samples there will be, over all processes; of more than 10,000 the first are looked at.
        train: Pictures that could have been copied.
        held_out: Pictures of the same kind that could not.
        device: Where the work is done.
        track: Shows how far it is.
    """

    def __init__(self, count: int, train: Pictures, held_out: Pictures, device: torch.device, track: Track) -> None:
        self.count, self.pixels = count, Pixels().to(device)
        self.train, self.held_out = (Real(self.pixels, pictures, track) for pictures in (train, held_out))
        self.bank = FeatureBank(min(count, PAIRS), self.pixels.dim).to(self.train.device)

    def update(self, seen: Seen) -> None:
        """Add some samples."""
        kept = seen.place < min(self.count, PAIRS)
        if kept.any():
            features = self.pixels(seen.images).features.to(self.train.device)
            self.bank.update(seen.place[kept], features[kept.to(features.device)])

    def scores(self, diverged: bool) -> dict[str, Score]:
        """Return ``copied_5k``; see ``metrics.neighbours.copied``."""
        copies = copied(self.bank.compute(), self.train.features, self.held_out.features, BLOCKS)
        unseen = len(self.train.pictures) / len(self.train.features)  # copies of those that are not kept are not found
        estimate = copies.value * unseen, copies.leave_one_out * unseen
        return named({"copied": estimate}, self.pixels, self.count, {}, diverged)
