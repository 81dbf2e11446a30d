"""All that a score depends on, and whether two scores can be compared.

A passport has

- ``images``: how many were scored; ``seeds``: of the first and the last of them, and ``block``: how many at a time,
  where they were drawn;
- ``weights``: ``average`` or ``last``; ``truncation_psi``; ``labels``: where they came from; null where there is none;
- ``sampling``: what else samples depend on, such as the ``temperature`` of a prior; null where there is nothing;
- ``rounding``: how images became bytes; null for pictures that were bytes already;
- ``reference``: the real pictures: ``name``, ``split``, ``images``, and ``key``, a hash of content and preparation;
  ``train`` and ``held_out`` the same of the pictures that floor and copies are told from, or null; ``pictures`` the
  same of a folder that was scored;
- ``direction``: of a way between domains, the pictures ``from`` which and ``to`` which it leads, told as the reference;
- ``extractors``: name -> ``sha256`` of the weights' content, ``resize``, ``precision``, and ``pairs``: how many images
  and real pictures were compared pair by pair (kernel distance, precision, recall, density, coverage), and
  ``without_classes``: why there is no class score, or null; of networks that judge images one by one the first two;
- of likelihoods ``likelihood``, what it is ``of`` (``bytes``, ``bits``, ``density``), ``binarisation`` where pictures
  became black and white, ``importance_samples``, and ``dimensions`` of a picture without its empty ``border``;
- ``device`` and ``versions``.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import lightning
import torch

import lightning_avatars
from lightning_avatars.data.pictures import Pictures
from lightning_avatars.evaluation.scores import PAIRS
from lightning_avatars.metrics.extractors.base import Extractor

ROUNDING = "(x + 1) * 127.5, rounded, clamped to 0 … 255"


COPIES = "pixels"  # what copies are looked for in
NOT_ALWAYS = ("rounding", "truncation_psi", "labels")  # samples have them, pictures from elsewhere don't


def facts_of(pictures: Pictures | None, split: str | None = None) -> dict[str, Any] | None:
    """Name some real pictures, for a passport."""
    if pictures is None:
        return None
    return {"name": pictures.name, "split": split, "images": len(pictures), "key": pictures.key}


def extractor_facts(extractor: Extractor, images: int, reference: int) -> dict[str, Any]:
    """Tell what scores in an extractor's features depend on; ``without_classes``: why there is no class score."""
    return {
        "sha256": extractor.sha256,
        "resize": extractor.resize,
        "precision": extractor.precision,
        "pairs": {"images": min(images, PAIRS), "reference": min(reference, PAIRS)},
        "without_classes": extractor.without_classes or None,
    }


def versions() -> dict[str, str]:
    """Versions of what computes scores."""
    return {
        "lightning_avatars": lightning_avatars.__version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """Name a device as a person would."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def difference(extractor: str | None, first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Say in which field two passports differ so that scores can't be compared; None where they can.

    What samples depend on beside truncation differs only where both say it: families that have no temperature, files
    of before it was noted and pictures from elsewhere are compared with all.

    Args:
        extractor: Name of the network that the scores were taken in, if any.
        first: A passport.
        second: Another.
    """
    ours, theirs = (depended_on(extractor, passport) for passport in (first, second))
    for field in NOT_ALWAYS:
        if None in (ours[field], theirs[field]):
            del ours[field]
    differ = (field for field in ours if field in theirs and ours[field] != theirs[field])
    return next((f"{field} is {ours[field]!r} and {theirs[field]!r}" for field in differ), None)


def depended_on(extractor: str | None, passport: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the fields that must agree where scores are compared."""
    fields = {field: passport.get(field) for field in ("images", "rounding", "truncation_psi", "labels")}
    fields |= {field: passport.get(field) for field in ("of", "binarisation", "dimensions")}  # of likelihoods
    fields |= {f"sampling.{field}": value for field, value in (passport.get("sampling") or {}).items()}
    reference = passport.get("reference") or {}
    fields |= {f"reference.{field}": reference.get(field) for field in ("key", "split")}
    if extractor is None:
        return fields
    if extractor == COPIES:
        told_from = {side: passport.get(side) or {} for side in ("train", "held_out")}
        fields |= {f"{side}.key": facts.get("key") for side, facts in told_from.items()}
    facts = (passport.get("extractors") or {}).get(extractor) or {}
    return fields | {f"extractors.{extractor}.{k}": facts.get(k) for k in ("sha256", "resize", "precision", "pairs")}
