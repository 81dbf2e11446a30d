"""Extractors by name."""

from __future__ import annotations

from collections.abc import Sequence
from pydoc import locate

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_avatars import shipped
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.extractors.recognizer import Recognizer
from lightning_avatars.metrics.lpips import LPIPS, Backbone


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """Make an extractor.

    Args:
        name: A file of ``configs/extractor`` by name, such as ``inception``; the path of such a file of one's own; or a
            recogniser's weights, ``.safetensors``, that a run has written.
        device: Where it goes.

    Raises:
        FileNotFoundError: There is no such name or file, or its weights are not there.
    """
    if name.endswith(".safetensors"):
        return Recognizer(name).to(device)
    path = shipped.find(name, "extractor")
    described = yaml.safe_load(path.read_text())
    made = locate(described["class_path"]) if isinstance(described, dict) and "class_path" in described else None
    if not (isinstance(made, type) and issubclass(made, Extractor)):
        raise ValueError(f"{path} names no subclass of Extractor: its class_path must be the import path of one")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(made, "extractor")
    arguments = parser.parse_object({"extractor": described.get("init_args") or {}})
    extractor: Extractor = parser.instantiate_classes(arguments).extractor
    return extractor.to(device)


def load_extractors(names: str | Sequence[str], device: torch.device | str = "cpu") -> list[Extractor]:
    """Make several extractors, whose names in scores must differ; ``inception,avatarnet`` names two."""
    asked = names.split(",") if isinstance(names, str) else names
    extractors = [load_extractor(name.strip(), device) for name in asked]
    called = [extractor.name for extractor in extractors]
    if len(set(called)) < len(called):
        raise ValueError(f"two extractors have the same name in scores: {', '.join(called)}; rename one's file")
    return extractors


def load_perceptual(names: Backbone | Sequence[Backbone] | None, device: torch.device | str = "cpu") -> list[LPIPS]:
    """Make LPIPS networks, ``alex`` and ``vgg``."""
    return [LPIPS(name).to(device) for name in ([names] if isinstance(names, str) else names or [])]
