"""Ways to translate that a person asks for: a domain by its name, or attributes, the rest of which pictures keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pydoc import locate

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.data.base import FaceDataset
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.families.domain_translation import DomainTranslation
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.families.translation import Translation
from lightning_avatars.labels import assign, following, groups, one_hot_groups, parse
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.extractors.recognizer import SHIPPED


@dataclass(frozen=True)
class Way:
    """One translation that is asked for.

    Args:
        name: What the person called it.
        to: Name of the domain, where there are domains.
        labels: Fills in the labels of pictures, bytes N C H W, where attributes are changed or labels are painted by.
        seed: Says what the regions of label maps look like, where the generator has an encoder.
    """

    name: str
    to: str | None = None
    labels: Callable[[Tensor], Tensor] | None = None
    seed: int | None = None

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^\w=,-]+", "_", self.name)


def ways_of(
    module: Translation,
    to: str | list[str] | None,
    labels: str | None,
    recognizer: str | None,
    seeds: list[int] | None = None,
) -> list[Way]:
    """Look up what is asked for; raise where the module does not know it."""
    check_seeds(module, seeds)
    asked = [] if to is None else [to] if isinstance(to, str) else to
    check_apart(asked)
    if not isinstance(module, AttributeTranslation) and (recognizer or (labels and not module.conditional)):
        raise ValueError(
            "--labels and --recognizer say what pictures show whose attributes are changed: leave them out"
        )
    if isinstance(module, AttributeTranslation):
        if not asked:
            raise ValueError(f"say by --to what to change, such as {module.label_names[0]}")
        judge = recognizer_of(module) if recognizer is None else load_extractor(recognizer, module.device)
        known = Known(module, labels, judge)
        return [Way(text, labels=known.towards(text)) for text in asked]
    if isinstance(module, DomainTranslation):
        reached = [module.domain_names[end] for _, end in module.directions.values()]
        unknown = next((name for name in asked if name not in reached), None)
        if unknown is not None:
            near = get_close_matches(unknown, reached, 1, 0.5)
            raise ValueError(f"--to {unknown}: this model translates to {' or '.join(near or reached)}")
        if not asked and len(reached) > 1:
            raise ValueError(f"say by --to which way: {' or '.join(reached)}")
        return [Way(name, to=name) for name in asked or reached]
    if asked:
        raise ValueError(f"this model translates one way only, so that it can't obey --to {asked[0]}: leave it out")
    given = painted_by(module, labels) if module.conditional else None
    return [Way(f"seed_{seed}", labels=given, seed=seed) for seed in seeds or ()] or [Way("translated", labels=given)]


def check_seeds(module: Translation, seeds: list[int] | None) -> None:
    """Raise where seeds would say nothing, or not be different whole numbers of 0 or more."""
    if seeds is None:
        return
    if not isinstance(module, PairedTranslation) or module.encoder is None:
        raise ValueError(
            "--seeds says what regions of label maps look like, to a generator with a FeatureEncoder, as pix2pixhd can "
            "have: leave it out"
        )
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must be different whole numbers, 0 or more, got {seeds}")


def check_apart(asked: list[str]) -> None:
    """Raise where results of two translations would be called the same."""
    known: dict[str, str] = {}
    for text in asked:
        slug = Way(text).slug
        if slug in known:
            raise ValueError(
                f"--to names {known[slug]!r} and {text!r}, whose results would be called the same: give one"
            )
        known[slug] = text


def recognizer_of(module: Translation) -> Extractor | None:
    """Load the recogniser that suits the pictures which a module was trained on, where it comes with the project."""
    if module.config is None or "data" not in module.config:
        return None
    dataset = locate(module.config["data"]["dataset"]["class_path"])  # its pictures need not be there, nor the class
    name = getattr(dataset, "extractor", FaceDataset.extractor)
    return load_extractor(name, module.device) if (SHIPPED / f"{name}.safetensors").is_file() else None


def painted_by(module: Translation, labels: str | None) -> Callable[[Tensor], Tensor]:
    """Return what fills in labels that sources are painted by: those that are named, and the usual ones."""
    names = module.label_names
    if not (labels or len(module.label_rows)):
        raise ValueError(f"this model paints by labels and knows no usual ones: give --labels, such as {names[0]}")
    row = assign(usual_row(module), labels or "", names)
    return lambda sources: row.repeat(len(sources), 1)


def usual_row(module: Translation) -> Tensor:
    """Return labels, 1 L, as most training pictures have them, group by group; zeros where none are known."""
    rows, names = module.label_rows.cpu(), module.label_names
    usual = torch.zeros(1, len(names))
    for group, columns in groups(names).items() if len(rows) else ():
        mean = rows[:, columns].mean(0)
        exclusive = group in one_hot_groups(names)
        usual[0, columns] = F.one_hot(mean.argmax(), len(mean)).float() if exclusive else (mean > 0.5).float()
    return usual


@dataclass
class Known:
    """What is known of the labels of pictures, whose attributes are to be changed.

    Args:
        module: Changes them.
        labels: What the person says that all pictures show.
        recognizer: Tells the rest.
    """

    module: AttributeTranslation
    labels: str | None
    recognizer: Extractor | None

    def towards(self, text: str) -> Callable[[Tensor], Tensor]:
        """Return what fills in labels of pictures that are to show what ``text`` says."""
        names = self.module.label_names
        said = parse(text, names)  # raises where something is not known
        if not said:
            raise ValueError(f"--to names no attributes: give some, such as {names[0]}")
        changed = {group: self.module.changes[columns.start] for group, columns in groups(names).items()}
        unlearned = next((group for group in said if not changed[group]), None)
        if unlearned is not None:
            learned = ", ".join(group for group, changes in changed.items() if changes)
            raise ValueError(f"--to {text}: this model was never trained to change {unlearned}; it changes {learned}")

        def fill(pictures: Tensor) -> Tensor:
            rows = self.shown(pictures)
            for group in said:
                rows = following(assign(rows, part_of(text, group), names), group, self.module.label_rows, names)
            return assign(rows, text, names)

        return fill

    def shown(self, pictures: Tensor) -> Tensor:
        """Tell what pictures show, N L."""
        names, rows = self.module.label_names, usual_row(self.module).repeat(len(pictures), 1)
        if self.recognizer is not None:
            logits = self.recognizer(pictures).logits
            theirs = self.recognizer.label_names
            for group, columns in groups(names).items():
                own = names[columns]
                if logits is None or not set(own) <= set(theirs):
                    continue
                part = logits[:, [theirs.index(name) for name in own]].cpu()
                exclusive = group in one_hot_groups(names)
                rows[:, columns] = F.one_hot(part.argmax(1), len(own)).float() if exclusive else (part > 0).float()
        return assign(rows, self.labels, names) if self.labels else rows


def part_of(text: str, group: str) -> str:
    """Find what a text says of one group of labels."""
    return next(part for part in map(str.strip, text.split(",")) if part.partition("=")[0] == group)
