"""Scores of what a module makes of real pictures: reconstructions, translations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.evaluation.judges import Judged, Judges
from lightning_avatars.evaluation.passport import ROUNDING, device_name, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK, spread
from lightning_avatars.evaluation.scores import Result, check_shown
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import EvaluationSet, GenerativeModule
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.metrics.processes import exact, shares
from lightning_avatars.seeding import seeded

SEEN = 8  # blocks that are kept of those that are looked at again
UNTRANSLATED = "_untranslated"  # at the end of a set's name


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

    def make(where: slice) -> dict[str, EvaluationSet]:
        batch = pictures.batch(where, module.device)
        with seeded(where.start, module.device):
            sets = module.evaluation_sets(batch)
        return sets | as_they_are(sets) if untranslated else sets

    first = make(slice(0, 1))  # every process must know the sets, also one that has no block
    blocks = -(-count // block)
    judged = {name: Judged(found, blocks, judges, device) for name, found in first.items()}
    for where in track(list(shares(count, block)) if judged else [], "Scoring what is made of pictures"):
        for name, found in make(where).items():
            judged[name].update(where.start // block, found)
    for part, training in modes.items():
        part.training = training
    facts = {
        "seeds": [0, count - 1], "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": None, "rounding": ROUNDING, "held_out": None,
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip

    @lru_cache(maxsize=SEEN)
    def again(number: int) -> dict[str, tuple[Tensor, Tensor]]:
        sets = make(slice(number * block, min(number * block + block, count)))
        return {name: (to_bytes(one.images), one.target) for name, one in sets.items() if one.target is not None}

    def look(name: str, index: int) -> tuple[Tensor, Tensor]:
        number, place = judged[name].place(index)
        made, target = again(number)[name]
        return made[place], target[place]

    results = []
    for name, one in judged.items():
        scores, values = one.conclude(name)
        passport = {
            "images": one.made, **facts, "labels": first[name].labels, **compared_with(module, name, pictures, split),
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
        f"{name}{UNTRANSLATED}": found._replace(images=to_float(found.source), source=None, labels=None)
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
        check_shown(min(most, len(index)), f"pictures of the {split} split")
        return StorePictures(store, index[spread(len(index), most).numpy()], data.dataset.name)
    parts = [index[store.domains[index] == number] for number in range(len(names))]
    chosen = [part[spread(len(part), most // len(names)).numpy()] for part in parts]
    for name, part in zip(names, chosen, strict=True):
        check_shown(len(part), f"pictures of {name} in the {split} split")
    return StorePictures(store, np.sort(np.concatenate(chosen)), data.dataset.name)
