"""Real pictures as an extractor sees them: what others are compared with."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_avatars.data.pictures import Pictures
from lightning_avatars.evaluation.scores import PAIRS
from lightning_avatars.evaluation.statistics import cached
from lightning_avatars.evaluation.track import Track
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.frechet import Moments, square_root
from lightning_avatars.metrics.neighbours import Inner, inner
from lightning_avatars.metrics.processes import exact, shares

KEPT_BYTES = 2**28  # of features of real pictures; beyond that, of pictures at even distances
BLOCK = 250  # pictures read at a time


class Against(NamedTuple):
    """What images are compared with, in one extractor's features."""

    mean: Tensor  # D
    covariance: Tensor  # D x D
    root: Tensor  # of the covariance
    pairs: Tensor  # features of those that are compared pair by pair, M x D
    among: Inner  # what these say of each other


class Real:
    """What is known of some real pictures in one extractor's features; read from the cache where it is there.

    Every process must ask for the same things in the same order.

    Args:
        extractor: The extractor, on its device.
        pictures: The pictures.
        track: Shows how far the extraction is.
    """

    def __init__(self, extractor: Extractor, pictures: Pictures, track: Track) -> None:
        self.extractor, self.pictures, self.track = extractor, pictures, track
        self.device = exact(extractor.device)
        kind = type(extractor)
        self.facts: dict[str, object] = {
            "pictures": pictures.key, "class": f"{kind.__module__}.{kind.__qualname__}", "extractor": extractor.name,
            "weights": extractor.sha256, "resize": extractor.resize, "precision": extractor.precision,
            "classes": extractor.classes, "kept": KEPT_BYTES,
        }  # fmt: skip

    @cached_property
    def described(self) -> dict[str, Tensor]:
        return cached({"what": "features", **self.facts}, self.device, self.describe)

    @property
    def features(self) -> Tensor:
        """Features of all pictures, or of as many at even distances as are kept."""
        return self.described["features"]

    @property
    def pair_facts(self) -> dict[str, object]:
        """All that comparisons pair by pair depend on."""
        kernel = self.extractor.kernel
        return {"pairs": PAIRS, "kernel": [type(kernel).__name__, vars(kernel)], **self.facts}

    @cached_property
    def against(self) -> Against:
        """Make them what others are compared with."""
        mean, covariance = self.described["mean"], self.described["covariance"]
        pairs = self.features[spread(len(self.features), PAIRS)]
        kernel = self.extractor.kernel

        def compare() -> dict[str, Tensor]:
            return {"root": square_root(covariance), **inner(pairs, kernel, 1)._asdict()}

        kept = cached({"what": "against", **self.pair_facts}, self.device, compare)
        return Against(mean, covariance, kept["root"], pairs, Inner(kept["radii"], kept["kernel"]))

    def describe(self) -> dict[str, Tensor]:
        count, dim = len(self.pictures), self.extractor.dim
        chosen = spread(count, KEPT_BYTES // (4 * dim))
        place = torch.full((count,), -1).index_copy(0, chosen, torch.arange(len(chosen)))
        moments, bank = Moments(dim).to(self.device), FeatureBank(len(chosen), dim).to(self.device)
        logits = FeatureBank(len(chosen), self.extractor.classes).to(self.device)
        for where in self.track(
            list(shares(count, self.pictures.block)), f"Describing {self.pictures.name} by {self.extractor.name}"
        ):
            described = self.extractor(self.pictures.read(where))
            moments.update(described.features)
            places = place[where.start : where.stop]
            kept = places >= 0
            bank.update(places[kept], described.features.cpu()[kept])
            if described.logits is not None:
                logits.update(places[kept], described.logits.cpu()[kept])
        mean, covariance = moments.compute()
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError(
                f"{self.extractor.name} describes some of {self.pictures.name} by numbers that are not finite: its "
                "weights are broken; give another extractor"
            )
        known = {"mean": mean, "covariance": covariance, "features": bank.compute()}
        return known | ({"logits": logits.compute()} if self.extractor.classes else {})


def spread(count: int, most: int) -> Tensor:
    """Choose at most so many of ``count`` places, at even distances."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
