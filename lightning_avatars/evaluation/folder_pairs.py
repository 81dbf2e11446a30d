"""Scores of pictures against those of the same name in another folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import PurePosixPath

import torch
from torch import Tensor

from lightning_avatars.data.pictures import FolderPictures, Pictures
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.pairs import Pairs, means
from lightning_avatars.evaluation.passport import device_name, facts_of, versions
from lightning_avatars.evaluation.reconstructions import SetScores
from lightning_avatars.evaluation.scores import Result
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.metrics.processes import shares


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
