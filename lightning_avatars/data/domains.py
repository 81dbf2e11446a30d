"""Domains: sets of pictures between which is translated, without pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_avatars.data.base import FaceDataset, Picture
from lightning_avatars.data.folder import ImageFolder

NEGATION = "not "


class Domains(FaceDataset):
    """Several datasets as domains, such as photos and avatars.

    All must have the same channels and the same ``split``, by which each domain is split; labels are kept where all
    have the same ones. Of three or more that have not, the domain is the label, such as ``domain=photo``.

    Args:
        domains: Name -> dataset, two or more; a name is letters, digits and underscores.
    """

    def __init__(self, domains: dict[str, FaceDataset]) -> None:
        check_names(list(domains))
        one = next(iter(domains.values()))
        for name, dataset in domains.items():
            for what in ("channels", "split"):
                mine, first = getattr(dataset, what), getattr(one, what)
                if mine != first:
                    raise ValueError(
                        f"{what} of domain {name!r} is {mine}, of {next(iter(domains))!r} {first}: make them equal"
                    )
            if dataset.domain_names:
                raise ValueError(f"domain {name!r} has domains itself: {', '.join(dataset.domain_names)}")
        super().__init__(one.split, max(dataset.max_rejected for dataset in domains.values()))
        self.domains, self.channels, self.extractor = domains, one.channels, one.extractor

    @property
    def name(self) -> str:
        return "_".join(self.domains)

    @property
    def label_names(self) -> list[str]:
        names = [f"domain={name}" for name in self.domains] if len(self.domains) > 2 else []
        return self.shared_labels or names

    @property
    def shared_labels(self) -> list[str]:
        """Labels that all have."""
        first, *others = (dataset.label_names for dataset in self.domains.values())
        return first if all(names == first for names in others) else []

    @property
    def domain_names(self) -> list[str]:
        return list(self.domains)

    def fingerprint(self) -> dict[str, object]:
        """What pixels depend on; raises a ValueError where two domains are the same pictures."""
        facts = {name: [dataset.name, dataset.fingerprint()] for name, dataset in self.domains.items()}
        for (one, (_, first)), (other, (_, second)) in combinations(facts.items(), 2):
            if type(self.domains[one]) is type(self.domains[other]) and first == second:
                raise ValueError(
                    f"domains {one!r} and {other!r} have the same pictures, so that nothing leads from one to the "
                    "other: give each its own"
                )
        return dict(facts)

    def pictures(self, resolution: int) -> Iterator[Picture]:
        shared, own = bool(self.shared_labels), np.eye(len(self.domains), len(self.label_names), dtype=np.float32)
        for place, (name, dataset) in enumerate(self.domains.items()):
            for picture in dataset.pictures(resolution):
                yield replace(
                    picture,
                    name=f"{name}/{picture.name}",
                    labels=picture.labels if shared else own[place],
                    identity=picture.identity and f"{dataset.name}/{picture.identity}",
                    source=None,
                    mask=None,
                    domain=place,
                )


class DomainFolders(Domains):
    """A folder or zip of pictures for each domain; of three or more, the domain is a label, for StarGAN.

    Args:
        domains: Name -> folder, zip or folder in a zip, two or more; a name is letters, digits and underscores.
        fit: What to do with pictures that are not square: ``crop`` takes the largest centred square, ``pad`` keeps all
            and fills up with the background.
        background: Colour under transparent parts and around padded pictures: a name or ``#rrggbb``.
        channels: 3 for colour, 1 for gray.
        split: Shares of train, validation and test of each domain, or ``standard``: as folders called train, val and
            test tell.
        max_rejected: Largest share of unreadable pictures that is left out and listed; above it the run stops.
    """

    def __init__(
        self,
        domains: dict[str, Path],
        fit: Literal["crop", "pad"] = "crop",
        background: str = "white",
        channels: Literal[1, 3] = 3,
        split: tuple[float, float, float] | Literal["standard"] = (0.7, 0.15, 0.15),
        max_rejected: float = 0.01,
    ) -> None:
        super().__init__(
            {
                name: ImageFolder(path, None, None, fit, background, channels, split, max_rejected)
                for name, path in domains.items()
            }
        )


class AttributeDomains(FaceDataset):
    """Domains by the labels of a dataset, such as with glasses and without.

    Pictures of no domain are left out. A person may be in several domains, but only in one split.

    Args:
        dataset: The labelled pictures, and their split.
        domains: Name -> condition, two or more. A condition is a label, ``Smiling`` or ``hair=long``, or ``not`` and a
            label; several, between commas, must hold together. No picture may be of two domains.
    """

    def __init__(self, dataset: FaceDataset, domains: dict[str, str]) -> None:
        check_names(list(domains))
        if dataset.domain_names:
            raise ValueError(f"{dataset.name} has domains itself: {', '.join(dataset.domain_names)}")
        super().__init__(dataset.split, dataset.max_rejected)
        self.dataset, self.domains = dataset, domains
        self.channels, self.extractor = dataset.channels, dataset.extractor
        self.source_channels = dataset.source_channels

    @property
    def name(self) -> str:
        return f"{self.dataset.name}_{'_'.join(self.domains)}"

    @property
    def label_names(self) -> list[str]:
        return self.dataset.label_names

    @property
    def mask_names(self) -> list[str]:
        return self.dataset.mask_names

    @property
    def domain_names(self) -> list[str]:
        return list(self.domains)

    def border(self, resolution: int) -> int:
        return self.dataset.border(resolution)

    def fingerprint(self) -> dict[str, object]:
        return {"dataset": self.dataset.fingerprint(), "domains": list(self.domains.items())}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        conditions = [read_condition(name, text, self.label_names) for name, text in self.domains.items()]
        for picture in self.dataset.pictures(resolution):
            if picture.image is None:
                yield picture
                continue
            of = [place for place, wanted in enumerate(conditions) if holds(wanted, picture)]
            if len(of) > 1:
                both = " and ".join(list(self.domains)[place] for place in of)
                raise ValueError(
                    f"{picture.name} of {self.dataset.name} is in the domains {both}: make them exclude each other"
                )
            if of:
                yield replace(picture, domain=of[0])


def check_names(names: list[str]) -> None:
    """Raise unless there are two domains or more with names that files and networks can have."""
    if len(names) < 2:
        raise ValueError(f"a translation is between two or more domains, got {names}")
    for name in names:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or "_to_" in name:
            raise ValueError(
                f"domain {name!r}: a name is letters, digits and underscores, begins with a letter and has no '_to_'"
            )


def read_condition(domain: str, text: str, label_names: list[str]) -> dict[int, bool]:
    """Read what pictures of a domain must show: places of labels -> whether they must be set."""
    wanted: dict[int, bool] = {}
    for part in text.split(","):
        part = part.strip()
        label = part.removeprefix(NEGATION).strip()
        if label not in label_names:
            raise ValueError(f"domain {domain!r}: {label!r} is none of the labels {', '.join(label_names)}")
        wanted[label_names.index(label)] = not part.startswith(NEGATION)
    return wanted


def holds(wanted: dict[int, bool], picture: Picture) -> bool:
    """Tell whether a picture shows what is wanted."""
    return all(bool(picture.labels[place] > 0.5) == value for place, value in wanted.items())
