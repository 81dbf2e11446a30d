"""Scores of what a module makes of real pictures: reconstructions, translations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.data.base import Batch
from lightning_avatars.data.pictures import FolderPictures, Pictures, StorePictures
from lightning_avatars.evaluation.distribution import Distribution
from lightning_avatars.evaluation.pairs import Pairs, means
from lightning_avatars.evaluation.passport import ROUNDING, device_name, extractor_facts, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK
from lightning_avatars.evaluation.scores import Result, Score, named
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import EvaluationSet, GenerativeModule
from lightning_avatars.images import to_bytes
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.processes import add_up, exact, shares
from lightning_avatars.seeding import seeded


@dataclass(frozen=True)
class Judges:
    """Networks that judge what was made of pictures.

    Args:
        extractors: Networks whose features sets are compared in.
        perceptual: LPIPS networks, for pairs.
        identity: A face recogniser, for pairs.
    """

    extractors: Sequence[Extractor] = ()
    perceptual: Sequence[LPIPS] = ()
    identity: Extractor | None = None

    def facts(self, images: int) -> dict[str, Any]:
        """Tell of all networks what scores depend on."""
        facts: dict[str, Any] = {network.name: {"sha256": network.sha256} for network in self.perceptual}
        if self.identity is not None:
            facts[self.identity.name] = {"sha256": self.identity.sha256, "resize": self.identity.resize}
        return facts | {e.name: extractor_facts(e, images, images) for e in self.extractors}

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        networks = (*self.extractors, *self.perceptual, *([self.identity] if self.identity is not None else []))
        tensors = (tensor for network in networks for tensor in (*network.parameters(), *network.buffers()))
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        for network in (*self.extractors, *self.perceptual, *([self.identity] if self.identity is not None else [])):
            network.to(device)


class Judged:
    """One of a module's sets while it is scored."""

    def __init__(self, first: EvaluationSet, count: int, judges: Judges, device: torch.device) -> None:
        judged = (count, min(first.images.shape[2:]), judges.perceptual, judges.identity, device)
        self.pairs = Pairs(*judged) if first.target is not None else None
        self.compared = first.target is not None or first.reference is not None
        self.made = [Distribution(e, count, device) for e in judges.extractors if self.compared]
        self.real = [Distribution(e, count, device, blocks=1) for e in judges.extractors if self.compared]
        self.finite = torch.ones((), device=device)

    def update(self, index: Tensor, found: EvaluationSet) -> None:
        """Add what was made of some pictures."""
        self.finite *= found.images.isfinite().all().to(self.finite)
        made = to_bytes(found.images)
        if self.pairs is not None and found.target is not None:
            self.pairs.update(index, made, found.target)
        reference = found.target if found.reference is None else found.reference
        for mine, theirs in zip(self.made, self.real, strict=True):
            mine.update(index, mine.extractor(made))
            theirs.update(index, theirs.extractor(reference))


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
) -> list[SetScores]:
    """Score each of the sets that a module makes of real pictures, on all processes together.

    Args:
        module: Makes the images.
        pictures: What they are made of.
        split: What part of the data that is.
        judges: Networks that judge, on the module's device.
        block: Pictures shown at a time; blocks are spread over processes.
        track: Shows how far it is.

    Returns:
        One entry for each set; none for a family that only samples.
    """
    started, device, count = time.monotonic(), exact(module.device), len(pictures)
    modes = {part: part.training for part in module.modules()}
    module.eval()

    def make(where: slice) -> dict[str, EvaluationSet]:
        with seeded(where.start, module.device):
            return module.evaluation_sets(batch_of(pictures, where, module.device))

    first = make(slice(0, 1))  # every process must know the sets, also one that has no block
    judged = {name: Judged(found, count, judges, device) for name, found in first.items()}
    for where in track(list(shares(count, block)) if judged else [], "Scoring what is made of pictures"):
        for name, found in make(where).items():
            judged[name].update(torch.arange(where.start, where.stop), found)
    for part, training in modes.items():
        part.training = training
    facts = {
        "images": count, "seeds": [0, count - 1], "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": None, "labels": None, "rounding": ROUNDING, "reference": facts_of(pictures, split),
        "held_out": None, "extractors": judges.facts(count),
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip

    def look(name: str, index: int) -> tuple[Tensor, Tensor]:
        start = index // block * block
        found = make(slice(start, min(start + block, count)))[name]
        assert found.target is not None  # only images with targets are looked at
        return to_bytes(found.images[index - start]), found.target[index - start]

    seconds = time.monotonic() - started
    return [conclude(name, one, facts, seconds, partial(look, name)) for name, one in judged.items()]


def conclude(
    name: str, judged: Judged, facts: dict[str, Any], seconds: float, look: Callable[[int], tuple[Tensor, Tensor]]
) -> SetScores:
    """Take the scores of one set."""
    diverged = (1 - judged.finite).clone()
    add_up(diverged)
    if diverged:
        rank_zero_warn(f"some images of {name} are not finite: the model has diverged, their scores are nan")
    scores: dict[str, Score] = {}
    for made, real in zip(judged.made, judged.real, strict=True):
        scores |= named(made.estimates(real.against()), made.extractor, made.count, {}, bool(diverged))
    values = {}
    if judged.pairs is not None:
        values = judged.pairs.compute()
        scores |= means(values, judged.pairs.networks, bool(diverged))
    return SetScores(Result(name, scores, {}, seconds, facts), values, look)


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
        "extractors": replace(judges, extractors=()).facts(len(both)),
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
    index = pictures.index[where]
    return Batch(
        image=torch.from_numpy(pictures.store.read(index)).to(device),
        labels=torch.from_numpy(pictures.store.labels[index]).to(device),
        index=torch.from_numpy(index).to(device),
    )
