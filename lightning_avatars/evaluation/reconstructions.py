"""Scores of what a module makes of real pictures: reconstructions, translations."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.data.batches import Batch, on_device, whole_batch
from lightning_avatars.data.pictures import FolderPictures, Pictures, StorePictures
from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.pairs import PairMetrics, Pairs, means
from lightning_avatars.evaluation.passport import ROUNDING, device_name, extractor_facts, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK, spread
from lightning_avatars.evaluation.scores import Result, Score, check_enough, named, size_name
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import EvaluationSet, GenerativeModule
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.extractors.segmenter import Segmenter
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.processes import add_up, exact, shares
from lightning_avatars.metrics.segmentation import SegmentationScores
from lightning_avatars.seeding import seeded

SEEN = 8  # blocks that are kept of those that are looked at again
UNTRANSLATED = "_untranslated"  # at the end of a set's name


@dataclass(frozen=True)
class Judges:
    """Networks that judge what was made of pictures.

    Args:
        extractors: Networks whose features sets are compared in.
        perceptual: LPIPS networks, for pairs.
        identity: A face recogniser, for pairs.
        segmenter: Names the parts that images show, for what is made of label maps.
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
        knows = judges.segmenter is not None and first.target is not None
        self.parts = PartCheck(judges.segmenter, device) if knows and judges.segmenter is not None else None

    def update(self, block: int, found: EvaluationSet, mask: Tensor | None = None) -> None:
        """Add what was made of a block of pictures; ``mask`` are the pictures' label maps."""
        self.finite *= found.images.isfinite().all().to(self.finite)
        made, reference = to_bytes(found.images), found.target if found.reference is None else found.reference
        values = None
        if self.metrics is not None and found.target is not None and len(made):
            values = self.metrics(made, found.target).to(self.device)
        if self.parts is not None and mask is not None and found.target is not None and len(mask) == len(made):
            self.parts.update(made, found.target, mask)
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


@dataclass(frozen=True)
class SetScores:
    """Scores of one set, and those of each of its images.

    Args:
        result: The scores.
        values: Score -> one number for each image, in order; empty where images have no targets.
        look: Shows an image and its target, both bytes C H W, by its place.
    """

    result: Result
    values: dict[str, Tensor]
    look: Callable[[int], tuple[Tensor, Tensor]]


def makes_something(module: LightningModule) -> bool:
    """Tell whether a module makes something of pictures, and not samples alone."""
    if not isinstance(module, GenerativeModule):
        return False
    return type(module).evaluation_sets is not GenerativeModule.evaluation_sets


@torch.no_grad()
def score_sets(
    module: GenerativeModule,
    pictures: StorePictures,
    split: str,
    judges: Judges,
    block: int = BLOCK,
    track: Track = on_screen,
    untranslated: bool = False,
) -> list[SetScores]:
    """Score each of the sets that a module makes of real pictures, on all processes together.

    Args:
        module: Makes the images.
        pictures: What they are made of.
        split: What part of the data that is.
        judges: Networks that judge, on the module's device.
        block: Pictures shown at a time; blocks are spread over processes.
        track: Shows how far it is.
        untranslated: Also score, as ``<set>_untranslated``, the pictures that a set was made of, as they are, so that
            one sees what the module gains.

    Returns:
        One entry for each set; none for a family that only samples.
    """
    started, device, count = time.monotonic(), exact(module.device), len(pictures)
    modes = {part: part.training for part in module.modules()}
    module.eval()

    def make(where: slice) -> tuple[dict[str, EvaluationSet], Batch]:
        batch = batch_of(pictures, where, module.device)
        with seeded(where.start, module.device):
            sets = module.evaluation_sets(batch)
        return sets | as_they_are(sets) if untranslated else sets, batch

    first, _ = make(slice(0, 1))  # every process must know the sets, also one that has no block
    blocks = -(-count // block)
    judged = {name: Judged(found, blocks, judges, device) for name, found in first.items()}
    for where in track(list(shares(count, block)) if judged else [], "Scoring what is made of pictures"):
        sets, batch = make(where)
        for name, found in sets.items():
            judged[name].update(where.start // block, found, batch.get("mask"))
    for part, training in modes.items():
        part.training = training
    facts = {
        "seeds": [0, count - 1], "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": None, "labels": None, "rounding": ROUNDING, "held_out": None,
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip

    @lru_cache(maxsize=SEEN)
    def again(number: int) -> dict[str, tuple[Tensor, Tensor]]:
        sets, _ = make(slice(number * block, min(number * block + block, count)))
        return {name: (to_bytes(one.images), one.target) for name, one in sets.items() if one.target is not None}

    def look(name: str, index: int) -> tuple[Tensor, Tensor]:
        number, place = judged[name].place(index)
        made, target = again(number)[name]
        return made[place], target[place]

    results = []
    for name, one in judged.items():
        scores, values = one.conclude(name)
        passport = {
            "images": one.made, **facts, **compared_with(module, name, pictures, split),
            "extractors": judges.facts(one.made, one.references),
        }  # fmt: skip
        if name.endswith(UNTRANSLATED):
            passport |= dict.fromkeys(("seeds", "block", "weights", "rounding"))
        result = Result(name, scores, {}, time.monotonic() - started, passport)
        results.append(SetScores(result, values, partial(look, name)))
    return results


def as_they_are(sets: Mapping[str, EvaluationSet]) -> dict[str, EvaluationSet]:
    """Make a set of the pictures that each set was made of, where they could be taken for what should come of them."""
    return {
        f"{name}{UNTRANSLATED}": found._replace(images=to_float(found.source), source=None)
        for name, found in sets.items()
        if found.source is not None
    }


def compared_with(module: GenerativeModule, name: str, pictures: StorePictures, split: str) -> dict[str, Any]:
    """Tell what a set was compared with: all pictures, or for one way between domains those of either one.

    A set called as one of the module's ``directions`` is compared with the pictures of the domain that it leads to, and
    one whose name goes on, as ``a_to_b_to_a``, with those that it began with.
    """
    plain = name.removesuffix(UNTRANSLATED)
    way = next((way for way in module.directions if plain == way or plain.startswith(f"{way}_to_")), None)
    if way is None:
        return {"reference": facts_of(pictures, split)}
    source, target = (
        facts_of(of_domain(pictures, number, module.domain_names[number]), split) for number in module.directions[way]
    )
    return {"reference": target if plain == way else source, "direction": {"from": source, "to": target}}


def of_domain(pictures: StorePictures, number: int, name: str) -> StorePictures:
    """Choose the pictures of one domain, whose name is added to theirs."""
    store, index = pictures.store, pictures.index
    assert store.domains is not None  # there are ways between domains
    return StorePictures(store, index[store.domains[index] == number], f"{pictures.name}, {name}")


def held_out(data: FaceData, split: Split, most: int) -> StorePictures:
    """Choose pictures to show to a module: at most so many of a split, at even distances, and of each domain as many.

    Raises:
        ValueError: There are too few for any score.
    """
    store, index = data.store, data.store.split(split)
    names = data.domain_names
    if store.domains is None:
        check_enough(min(most, len(index)), f"pictures of the {split} split are shown")
        return StorePictures(store, index[spread(len(index), most).numpy()], data.dataset.name)
    parts = [index[store.domains[index] == number] for number in range(len(names))]
    chosen = [part[spread(len(part), most // len(names)).numpy()] for part in parts]
    for name, part in zip(names, chosen, strict=True):
        check_enough(len(part), f"pictures of {name} in the {split} split are shown")
    return StorePictures(store, np.sort(np.concatenate(chosen)), data.dataset.name)


def score_folder_pairs(
    pictures: FolderPictures, reference: Pictures, judges: Judges, track: Track = on_screen
) -> SetScores:
    """Score pictures against those of the same name in another folder, one by one, whatever their sizes.

    Raises:
        ValueError: No names are the same, or two pictures of a name differ in size.
    """
    started = time.monotonic()
    if not isinstance(reference, FolderPictures):
        raise ValueError("pairs are pictures of the same name in two folders: give --reference a folder or zip")
    mine, theirs = by_stem(pictures), by_stem(reference)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        raise ValueError(
            f"no picture of {pictures.path} has the name of one in {reference.path}: {pictures.names[0]!r} and "
            f"{reference.names[0]!r}, for two; pairs need the same names, suffixes apart"
        )

    def look(index: int) -> tuple[Tensor, Tensor]:
        made, target = pictures.one(mine[both[index]]), reference.one(theirs[both[index]])
        if made.shape != target.shape:
            sizes = " and ".join(f"{p.shape[2]} x {p.shape[1]}" for p in (made, target))
            raise ValueError(f"{mine[both[index]]} is {sizes} pixels in the two folders; pairs must be of one size")
        return made, target

    scored = Pairs(
        len(both),
        pictures.least_side([mine[stem] for stem in both]),
        judges.perceptual,
        judges.identity,
        torch.device("cpu"),
    )
    for where in track(list(shares(len(both), 1)), "Scoring pairs"):
        made, target = look(where.start)
        scored.update(torch.tensor([where.start]), made[None], target[None])
    values = scored.compute()
    facts = {
        "images": len(both), "seeds": None, "weights": None, "truncation_psi": None, "labels": None,
        "rounding": None, "reference": facts_of(reference), "held_out": None,
        "extractors": replace(judges, extractors=()).facts(len(both), len(both)),
        "device": device_name(judges.device), "versions": versions(),
    }  # fmt: skip
    return SetScores(
        Result("pairs", means(values, scored.networks), {}, time.monotonic() - started, facts), values, look
    )


def by_stem(folder: FolderPictures) -> dict[str, str]:
    """Name without suffix -> name; raise where two pictures would be one."""
    names = {str(PurePosixPath(name).with_suffix("")): name for name in folder.names}
    if len(names) < len(folder.names):
        raise ValueError(f"{folder.path} has pictures whose names differ in the suffix alone; pairs can't be told")
    return names


def batch_of(pictures: StorePictures, where: slice, device: torch.device) -> Batch:
    """Read some pictures as a batch."""
    return on_device(whole_batch(pictures.store, pictures.index[where]), device)
