"""Networks that judge what is made of pictures, and one of a module's sets while they judge it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.pairs import PairMetrics, means
from lightning_avatars.evaluation.passport import extractor_facts
from lightning_avatars.evaluation.scores import Score, check_enough, named, size_name
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import to_bytes
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.extractors.segmenter import Segmenter
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.processes import add_up
from lightning_avatars.metrics.segmentation import SegmentationScores


@dataclass(frozen=True)
class Judges:
    """Networks that judge what was made of pictures.

    Args:
        extractors: Networks whose features sets are compared in.
        perceptual: LPIPS networks, for pairs.
        identity: A face recogniser, for pairs.
        segmenter: Names the parts that images show, for what is made of pictures with label maps.
    """

    extractors: Sequence[Extractor] = ()
    perceptual: Sequence[LPIPS] = ()
    identity: Extractor | None = None
    segmenter: Segmenter | None = None

    def facts(self, images: int, references: int) -> dict[str, Any]:
        """Tell of all networks what scores of so many images and references depend on."""
        facts: dict[str, Any] = {network.name: {"sha256": network.sha256} for network in self.perceptual}
        for judge in (self.identity, self.segmenter):
            if judge is not None:
                facts[judge.name] = {"sha256": judge.sha256, "resize": judge.resize}
        return facts | {e.name: extractor_facts(e, images, references) for e in self.extractors}

    @property
    def networks(self) -> list[nn.Module]:
        """All of them."""
        return [*self.extractors, *self.perceptual, *(j for j in (self.identity, self.segmenter) if j is not None)]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        tensors = (tensor for network in self.networks for tensor in (*network.parameters(), *network.buffers()))
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        for network in self.networks:
            network.to(device)


class Seen(NamedTuple):
    """What a block of pictures has given to one of a module's sets."""

    values: Tensor | None  # scores of pairs, made x metrics
    made: list[Description]  # one for each extractor
    references: list[Description]


class Judged:
    """One of a module's sets while it is scored.

    A set may hold as many images and references of a block as it likes, also none: how many there are in all is known
    at the end, and so what was described is kept till then.

    Args:
        first: The set of some picture, for the size of its images and what they have beside them.
        blocks: Blocks of pictures, over all processes.
        judges: Networks that judge.
        device: Where sums are kept.
    """

    def __init__(self, first: EvaluationSet, blocks: int, judges: Judges, device: torch.device) -> None:
        side = min(first.images.shape[2:])
        self.metrics = None if first.target is None else PairMetrics(side, judges.perceptual, judges.identity)
        compared = first.target is not None or first.reference is not None
        self.extractors = judges.extractors if compared else ()
        self.device, self.ends, self.starts, self.made, self.references = device, [0], [[0, 0]], 0, 0
        self.counts = torch.zeros(blocks, 2, dtype=torch.int64, device=device)  # images and references of each block
        self.seen: dict[int, Seen] = {}
        self.finite = torch.ones((), device=device)
        knows = judges.segmenter is not None and first.target is not None and first.mask is not None
        self.parts = PartCheck(judges.segmenter, device) if knows and judges.segmenter is not None else None

    def update(self, block: int, found: EvaluationSet) -> None:
        """Add what was made of a block of pictures."""
        self.finite *= found.images.isfinite().all().to(self.finite)
        made, reference = to_bytes(found.images), found.target if found.reference is None else found.reference
        values = None
        if self.metrics is not None and found.target is not None and len(made):
            values = self.metrics(made, found.target).to(self.device)
        if self.parts is not None and found.target is not None and found.mask is not None and len(made):
            self.parts.update(made, found.target, found.mask)
        described = [e(made) for e in self.extractors] if len(made) else []
        references = [e(reference) for e in self.extractors] if reference is not None and len(reference) else []
        self.counts[block] = torch.tensor([len(made), 0 if reference is None else len(reference)])
        self.seen[block] = Seen(values, described, references)

    def conclude(self, name: str) -> tuple[dict[str, Score], dict[str, Tensor]]:
        """Take all scores, and those of each pair, together with the other processes."""
        add_up(self.counts)
        ends = self.counts.cumsum(0)
        self.ends, self.starts = ends[:, 0].tolist(), (ends - self.counts).tolist()
        self.made, self.references = ends[-1].tolist()
        diverged = (1 - self.finite).clone()
        add_up(diverged)
        if diverged:
            rank_zero_warn(f"some images of {name} are not finite: the model has diverged, their scores are nan")
        scores, values = self.in_features(name, bool(diverged)), self.values()
        scores |= means(values, self.metrics.networks, bool(diverged)) if self.metrics is not None else {}
        scores |= self.parts.scores(self.made, bool(diverged)) if self.parts is not None else {}
        self.seen.clear()
        return scores, values

    def in_features(self, name: str, diverged: bool) -> dict[str, Score]:
        """Take the scores in each extractor's features."""
        scores: dict[str, Score] = {}
        for i, extractor in enumerate(self.extractors):
            for count, what in ((self.made, "images"), (self.references, "references")):
                check_enough(count, f"{what} of {name} are there")
            made = Distribution(extractor, self.made, self.device)
            real = Distribution(extractor, self.references, self.device, blocks=1)
            for block, seen in self.seen.items():
                for all_of_them, start, described in zip((made, real), self.starts[block], seen[1:], strict=True):
                    if described:
                        all_of_them.update(places(start, described[i].features), described[i])
            scores |= named(made.estimates(real.against()), extractor, self.made, {}, diverged)
        return scores

    def values(self) -> dict[str, Tensor]:
        """Scores of every pair by name, in order; none where images have no targets."""
        if self.metrics is None:
            return {}
        bank = FeatureBank(self.made, len(self.metrics.metrics), torch.float64).to(self.device)
        for block, seen in self.seen.items():
            if seen.values is not None:
                bank.update(places(self.starts[block][0], seen.values), seen.values)
        return dict(zip(self.metrics.metrics, bank.compute().unbind(1), strict=True))

    def place(self, index: int) -> tuple[int, int]:
        """Tell in which block an image is, and which of its images it is."""
        block = bisect_right(self.ends, index)
        return block, index - (self.ends[block - 1] if block else 0)


def places(first: int, rows: Tensor) -> Tensor:
    """Places of rows among all, of which the first is known."""
    return torch.arange(first, first + len(rows))


class PartCheck:
    """Whether images show the parts of label maps where these say, and whether the real ones do."""

    def __init__(self, segmenter: Segmenter, device: torch.device) -> None:
        self.segmenter = segmenter
        self.made, self.real = (SegmentationScores(segmenter.mask_names).to(device) for _ in range(2))

    def update(self, made: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add images, what they should be, and label maps of both."""
        for scores, images in ((self.made, made), (self.real, target)):
            scores.update(self.segmenter(images).to(scores.device), mask.to(scores.device))

    def scores(self, count: int, diverged: bool) -> dict[str, Score]:
        """Return pixel accuracy and mean intersection over union, those of the real images being their floors."""
        made, real = self.made.compute(), self.real.compute()
        return {
            f"{name}_{size_name(count)}": Score(
                math.nan if diverged else float(made[kind]), None, float(real[kind]), self.segmenter.name
            )
            for name, kind in (("pixel_accuracy", "accuracy"), ("miou", "miou"))
        }
