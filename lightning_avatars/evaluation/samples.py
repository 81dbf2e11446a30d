"""Scores of a generator's samples, or of any pictures, against real ones.

How a score comes about: pictures are read block by block and described by extractors. ``distribution`` adds up what is
described; ``copies`` and ``LabelCheck`` look at the same blocks. ``real`` knows the real pictures in an extractor's
features, from the cache that ``statistics`` keeps, and ``metrics/`` has the mathematics. ``scores`` names the results
and writes them, ``passport`` says what they depend on. ``reconstructions`` and ``pairs`` do the same for what is made
of pictures one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.data.pictures import Pictures, StorePictures
from lightning_avatars.data.splits import SPLITS
from lightning_avatars.evaluation.copies import CopyCheck
from lightning_avatars.evaluation.distribution import Distribution, Seen
from lightning_avatars.evaluation.passport import ROUNDING, device_name, extractor_facts, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK, Real, spread
from lightning_avatars.evaluation.scores import FEWEST, Result, Score, check_enough, named, size_name
from lightning_avatars.evaluation.statistics import cached
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import to_bytes
from lightning_avatars.metrics.attributes import AttributeAccuracy
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.processes import add_up, exact, shares
from lightning_avatars.seeding import uniform_at

COUNTS = (5_000, 2_000, 1_000, 500)


class Drawn(Pictures):
    """A generator's samples, drawn block by block from their seeds.

    Args:
        module: The generator.
        count: How many.
        truncation_psi: Below 1, images nearer to the mean one.
        label_rows: Labels to draw from, R L; by default those of training pictures that the module keeps.
    """

    def __init__(
        self,
        module: GenerativeModule,
        count: int,
        truncation_psi: float = 1.0,
        label_rows: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.module, self.count, self.truncation_psi, self.label_rows = module, count, truncation_psi, label_rows
        self.name, self.key = "samples", ""

    def __len__(self) -> int:
        return self.count

    def read(self, where: slice) -> Tensor:
        seeds = torch.arange(where.start, where.stop)
        images = self.module.sample(seeds, self.labels(where), self.truncation_psi)
        self.finite = self.finite and bool(images.isfinite().all())
        return to_bytes(images)

    def labels(self, where: slice) -> Tensor | None:
        """Labels that the samples are asked to show, N L."""
        if not self.module.conditional:
            return None
        if self.label_rows is None:
            return self.module.draw_labels(torch.arange(where.start, where.stop))
        place = uniform_at(0, "labels", np.arange(where.start, where.stop)) * len(self.label_rows)
        return torch.from_numpy(self.label_rows[place.astype(np.int64)]).to(self.module.device)


@dataclass(frozen=True)
class RealPictures:
    """What samples are compared with.

    Args:
        reference: Pictures whose distribution they should have.
        split: What part of the data that is.
        train: Pictures that could have been copied; None where that is not known.
        held_out: Pictures that nothing was trained on, to tell the floor and copies from; None where there are none.
        label_names: Names of the labels in ``label_rows``.
        label_rows: Labels of the training and the held-out pictures alike, R L: were only those of training pictures
            asked for, samples would be near to these without being copies.
    """

    reference: Pictures
    split: str | None = None
    train: Pictures | None = None
    held_out: Pictures | None = None
    label_names: Sequence[str] = ()
    label_rows: npt.NDArray[np.float32] | None = None


def real_pictures(data: FaceData, split: Split = "train") -> RealPictures:
    """Take a dataset's splits: one is the reference, what is neither that nor trained on is held out."""
    store = data.store
    other = [SPLITS.index(name) for name in SPLITS if name not in ("train", split)]
    held_out = np.flatnonzero(np.isin(store.splits, other))
    known = np.concatenate([store.split("train"), held_out])
    return RealPictures(
        StorePictures(store, store.split(split), data.dataset.name),
        split,
        StorePictures(store, store.split("train"), data.dataset.name),
        StorePictures(store, held_out, data.dataset.name) if len(held_out) >= FEWEST else None,
        store.label_names,
        store.labels[known],
    )


def default_count(real: RealPictures) -> int:
    """How many samples suit the data: as many as there are held-out pictures to tell the floor from, at most 5,000."""
    known = len(real.held_out) if real.held_out is not None else len(real.reference)
    return next((n for n in COUNTS if n <= known), known)


def check_counts(count: int, real: RealPictures) -> None:
    """Raise where there are too few images on either side for any score."""
    check_enough(count, "are to be scored")
    check_enough(len(real.reference), f"real pictures of {real.reference.name} are there to compare with")


def draw_for(module: GenerativeModule, real: RealPictures, count: int, truncation_psi: float = 1.0) -> Drawn:
    """Draw samples as they are scored: with labels of all pictures, where they have the module's labels."""
    known = list(real.label_names) == module.label_names
    return Drawn(module, count, truncation_psi, real.label_rows if known else None)


def score_samples(
    module: GenerativeModule,
    real: RealPictures,
    extractors: Sequence[Extractor],
    count: int,
    truncation_psi: float = 1.0,
    block: int = BLOCK,
    track: Track = on_screen,
) -> Result:
    """Score images that a module draws from the seeds 0 … ``count`` - 1, on all processes together.

    Args:
        module: Draws the images, with its averaged weights where it has some.
        real: What they are compared with.
        extractors: Networks whose features they are compared in, on the module's device.
        count: How many.
        truncation_psi: Share of the latents' distance from their mean that is kept.
        block: Images drawn at a time; blocks are spread over processes, so that the images don't depend on those.
        track: Shows how far it is.
    """
    drawn = draw_for(module, real, count, truncation_psi)
    facts = {
        "seeds": [0, count - 1],
        "block": block,
        "weights": "average" if module.averaged else "last",
        "truncation_psi": truncation_psi,
        "labels": ("training pictures" if drawn.label_rows is None else "all pictures") if module.conditional else None,
        "sampling": module.sampling_facts() or None,
        "rounding": ROUNDING,
    }
    return score(drawn, real, extractors, facts, block, track, module.label_names if module.conditional else [])


def score_pictures(
    pictures: Pictures, real: RealPictures, extractors: Sequence[Extractor], track: Track = on_screen
) -> Result:
    """Score pictures that are there already, in an order that has nothing to do with what they show."""
    facts = {
        "seeds": None,
        "weights": None,
        "truncation_psi": None,
        "labels": None,
        "rounding": None,
        "pictures": facts_of(pictures),
    }
    return score(pictures, real, extractors, facts, pictures.block, track, [])


def score(
    pictures: Pictures,
    real: RealPictures,
    extractors: Sequence[Extractor],
    facts: dict[str, Any],
    block: int,
    track: Track,
    label_names: list[str],
) -> Result:
    """Describe every picture once by each extractor, and take all scores from that."""
    started, count, device = time.monotonic(), len(pictures), extractors[0].device
    check_counts(count, real)
    judge = next((e for e in extractors if label_names and set(label_names) <= set(e.label_names)), None)
    labels = LabelCheck(judge, label_names, count) if judge is not None else None
    copies = None
    if real.train is not None and real.held_out is not None:
        copies = CopyCheck(count, real.train, real.held_out, device, track)
    parts: list[InFeatures | CopyCheck | LabelCheck] = [InFeatures(e, real, count, track) for e in extractors]
    parts += [part for part in (copies, labels) if part is not None]
    for where in track(list(shares(count, block)), f"Scoring {pictures.name}"):
        images, index = pictures.read(where), torch.arange(where.start, where.stop)
        seen = Seen(index, images, {e.name: e(images) for e in extractors}, pictures.labels(where))
        for part in parts:
            part.update(seen)

    diverged = torch.tensor(float(not pictures.finite), device=device)
    add_up(diverged)
    if diverged:
        rank_zero_warn(f"some {pictures.name} are not finite: the generator has diverged, its scores are nan")
    for extractor in (e for e in extractors if e.without_classes):
        rank_zero_warn(f"no {extractor.score('class_score')!r} score: {extractor.without_classes}")
    scores = {name: found for part in parts for name, found in part.scores(bool(diverged)).items()}
    passport = {
        "images": count,
        **facts,
        "reference": facts_of(real.reference, real.split),
        "train": facts_of(real.train, "train"),
        "held_out": facts_of(real.held_out),
        "extractors": {
            e.name: extractor_facts(e, count, len(real.reference))
            for e in (*extractors, *([copies.pixels] if copies is not None else []))
        },
        "device": device_name(device),
        "versions": versions(),
    }
    accuracy = {} if labels is None or diverged else labels.shares()
    return Result("samples", scores, accuracy, time.monotonic() - started, passport)


class InFeatures:
    """All scores in one extractor's features.

    Args:
        extractor: The extractor.
        real: What pictures are compared with.
        count: How many pictures there will be.
        track: Shows how far the extraction of real pictures is.
    """

    def __init__(self, extractor: Extractor, real: RealPictures, count: int, track: Track) -> None:
        self.extractor, self.count = extractor, count
        self.seen = Distribution(extractor, count, exact(extractor.device))
        self.reference = Real(extractor, real.reference, track)
        self.held_out = Real(extractor, real.held_out, track) if real.held_out is not None else None

    def update(self, seen: Seen) -> None:
        """Add some pictures."""
        self.seen.update(seen.place, seen.descriptions[self.extractor.name])

    def scores(self, diverged: bool) -> dict[str, Score]:
        """Return scores by name, with intervals and floors."""
        floor = {} if self.held_out is None else floors(self.held_out, self.reference, self.count)
        return named(self.seen.estimates(self.reference.against), self.extractor, self.count, floor, diverged)


class LabelCheck:
    """The share of labels that pictures show as they were asked to.

    Args:
        judge: An extractor that knows all labels.
        label_names: Names of the labels.
        count: How many pictures there will be.
    """

    def __init__(self, judge: Extractor, label_names: list[str], count: int) -> None:
        self.judge, self.count = judge, count
        self.columns = [judge.label_names.index(name) for name in label_names]
        self.accuracy = AttributeAccuracy(label_names).to(exact(judge.device))

    def update(self, seen: Seen) -> None:
        """Add some pictures."""
        logits = seen.descriptions[self.judge.name].logits
        assert logits is not None and seen.labels is not None  # a judge knows labels, and these were asked for
        self.accuracy.update(logits[:, self.columns].to(self.accuracy.device), seen.labels.to(self.accuracy.device))

    def shares(self) -> dict[str, float]:
        """Return the share of pictures that are as asked, for each group of labels."""
        return {name: float(share) for name, share in self.accuracy.compute().items()}

    def scores(self, diverged: bool) -> dict[str, Score]:
        """Return the mean over the groups."""
        shares = list(self.shares().values())
        value = math.nan if diverged else sum(shares) / len(shares)
        return {f"accuracy_{size_name(self.count)}": Score(value, extractor=self.judge.name)}


def floors(held_out: Real, reference: Real, count: int) -> dict[str, float]:
    """Score as many held-out pictures against the reference: kind -> value; nothing where there are fewer."""
    if len(held_out.features) < count:
        return {}

    def score() -> dict[str, Tensor]:
        seen, logits = Distribution(held_out.extractor, count, held_out.device), held_out.described.get("logits")
        # at even distances, as pictures may stand in an order that matters
        chosen = spread(len(held_out.features), count).to(held_out.device)
        for where in shares(count, BLOCK):
            described = Description(held_out.features[chosen[where]], None if logits is None else logits[chosen[where]])
            seen.update(torch.arange(where.start, where.stop), described)
        return {kind: value for kind, (value, _) in seen.estimates(reference.against).items()}

    facts = {"what": "floor", "count": count, "reference": reference.pair_facts, **held_out.facts}
    return {kind: float(value) for kind, value in cached(facts, held_out.device, score).items()}
