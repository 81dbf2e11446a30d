"""How likely real pictures are to a module, and what it takes to say which one it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.data.batches import Batch
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.evaluation.pairs import means
from lightning_avatars.evaluation.passport import device_name, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK, spread
from lightning_avatars.evaluation.scores import Result, Score, check_shown, size_name
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.families.base import OWN_LABELS, GenerativeModule
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.likelihood import (
    CodebookUse,
    bits_per_dimension,
    dimensions,
    evidence_lower_bound,
    importance_weighted_bound,
)
from lightning_avatars.metrics.processes import exact, shares
from lightning_avatars.seeding import Draws, seeded

AT_ONCE = 1_000 * 64**2  # pixels that are decoded together
SEED = 0  # of what pictures become binary by
MOST = 1_000  # held-out pictures that are shown
SAMPLES = 10  # importance samples of each picture


def knows_likelihoods(module: LightningModule) -> bool:
    """Tell whether a module's family says how likely pictures are, what latents take or which words they use."""
    if not isinstance(module, GenerativeModule):
        return False
    kind = type(module)
    return any(
        getattr(kind, name) is not getattr(GenerativeModule, name) for name in ("log_weights", "rates", "word_counts")
    )


def shown(data: FaceData, split: Split, most: int = MOST) -> StorePictures:
    """Choose pictures to ask a module about: at most so many of a split, at even distances.

    Raises:
        ValueError: There are too few for any score.
    """
    index = data.store.split(split)
    check_shown(min(most, len(index)), f"pictures of the {split} split")
    return StorePictures(data.store, index[spread(len(index), most).numpy()], data.dataset.name)


class Found(NamedTuple):
    """What a module says of some pictures."""

    bounds: list[Tensor]  # evidence lower bound and importance-weighted one, N each; none without a likelihood
    rates: list[Tensor]  # of each level of latents, N each
    words: CodebookUse | None


class Asked:
    """A module that is asked about pictures, a block at a time.

    Args:
        module: The module, on its device and in evaluation mode.
        pictures: The pictures.
        block: Pictures in a block.
    """

    def __init__(self, module: GenerativeModule, pictures: StorePictures, block: int) -> None:
        self.module, self.pictures, self.block = module, pictures, block

    def about(self, where: slice, samples: int) -> Found:
        """Ask about one block, with so many importance samples of each picture."""
        batch = self.pictures.batch(where, self.module.device)
        draws = Draws(SEED, where.start, len(batch["image"]), 0, len(batch["image"]), self.module.device)
        with seeded(where.start, self.module.device):
            weights = list(self.log_weights(batch, samples, draws))
            rates = [rate.to(exact(rate.device)).double() for rate in self.module.rates(batch, draws)]
            counts = self.module.word_counts(batch)
        together = torch.cat(weights, 1) if weights else None
        bounds = [] if together is None else [evidence_lower_bound(together), importance_weighted_bound(together)]
        if counts is None:
            return Found(bounds, rates, None)
        words = CodebookUse(len(counts)).to(counts.device)
        words.update(counts)
        return Found(bounds, rates, words)

    def log_weights(self, batch: Batch, samples: int, draws: Draws) -> Iterator[Tensor]:
        """Yield the logarithms of all samples' weights, N x some samples at a time."""
        together = max(1, AT_ONCE // (self.block * batch["image"][0, 0].numel()))
        for first in range(0, samples, together):
            weights = self.module.log_weights(batch, min(together, samples - first), draws)
            if weights is None:
                return
            yield weights.to(exact(weights.device)).double()

    def about_all(self, samples: int, track: Track) -> Found:
        """Ask about all pictures, on all processes together."""
        first = self.about(slice(0, 1), 1)  # every process must know what there is, also one without a block
        columns, words = len(first.bounds) + len(first.rates), first.words
        if not columns and words is None:
            return first
        bank = FeatureBank(len(self.pictures), columns, torch.float64).to(exact(self.module.device))
        if words is not None:
            words.reset()
        for where in track(list(shares(len(self.pictures), self.block)), "Scoring how likely pictures are"):
            found = self.about(where, samples)
            if columns:
                bank.update(torch.arange(where.start, where.stop), torch.stack([*found.bounds, *found.rates], 1))
            if words is not None and found.words is not None:
                words.update(found.words.counts)
        values = list(bank.compute().unbind(1)) if columns else []
        return Found(values[: len(first.bounds)], values[len(first.bounds) :], words)


@torch.no_grad()
def score_likelihood(
    module: GenerativeModule,
    pictures: StorePictures,
    split: str,
    samples: int,
    border: int = 0,
    block: int = BLOCK,
    track: Track = on_screen,
) -> Result | None:
    """Score how likely real pictures are, and the words that they use, on all processes together.

    In nats for a picture: ``nll_elbo``, minus the evidence lower bound; ``nll_iwae<k>``, minus the importance-weighted
    bound of k samples; ``rate``, and of several levels each. In bits for a dimension, of bytes and of binary pictures:
    ``bpd_elbo``, ``bpd_iwae<k>``; these are not comparable with each other, and densities have none. ``perplexity`` and
    ``codes_used`` tell of a codebook.

    All pixels' nats count, those of the border too, which can only make the bounds looser; as dimensions of the picture
    they don't.

    Args:
        module: What knows likelihoods.
        pictures: The pictures.
        split: What part of the data that is.
        samples: Importance samples, k.
        border: Width of the empty border around the pictures, in pixels.
        block: Pictures shown at a time; blocks are spread over processes.
        track: Shows how far it is.

    Returns:
        The scores; None where the module has no likelihood, no prior of latents and no codebook.
    """
    started, count = time.monotonic(), len(pictures)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    bounds, rates, words = Asked(module, pictures, block).about_all(samples, track)
    for part, training in modes.items():
        part.training = training
    if not bounds and not rates and words is None:
        return None

    facts = module.likelihood_facts() if bounds else {}
    _, channels, height, width = pictures.store.read(pictures.index[:1]).shape
    numbers = dimensions(channels, height, width, border)
    scores = of_bounds(bounds, samples, None if facts.get("of") == "density" else numbers) | of_rates(rates)
    if words is not None:
        names = (f"{name}_{size_name(count)}" for name in ("perplexity", "codes_used"))
        scores |= {name: Score(float(value)) for name, value in zip(names, words.compute(), strict=True)}
    passport = {
        "images": count, "seeds": [0, count - 1], "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": None, "labels": OWN_LABELS if module.conditional else None, "rounding": None,
        "reference": facts_of(pictures, split), "held_out": None, "extractors": {}, **facts,
        "importance_samples": samples if bounds else None, "dimensions": numbers, "border": border,
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip
    return Result("likelihood", scores, {}, time.monotonic() - started, passport)


def of_bounds(bounds: Sequence[Tensor], samples: int, numbers: int | None) -> dict[str, Score]:
    """Take the means of likelihoods' bounds, with intervals.

    Args:
        bounds: Evidence lower bounds and importance-weighted ones in nats, N each; none without a likelihood.
        samples: Importance samples.
        numbers: Dimensions of a picture; None where bits for each are not defined.
    """
    diverged = not all(math.isfinite(float(bound.sum())) for bound in bounds)
    if diverged:
        rank_zero_warn("some pictures have no finite likelihood: the model has diverged, the scores are nan")
    names = ("elbo", f"iwae{samples}") if bounds else ()
    values = {f"nll_{name}": -bound for name, bound in zip(names, bounds, strict=True)}
    if numbers is not None:
        values |= {f"bpd_{name}": bits_per_dimension(bound, numbers) for name, bound in zip(names, bounds, strict=True)}
    return means(values, {}, diverged)


def of_rates(rates: Sequence[Tensor]) -> dict[str, Score]:
    """Take the mean nats of an image's latents, and those of each level where there are several; N each."""
    if not rates:
        return {}
    values = {"rate": torch.stack(list(rates)).sum(0)}
    if len(rates) > 1:
        values |= {f"rate_level{level}": rate for level, rate in enumerate(rates)}
    return means(values, {})
