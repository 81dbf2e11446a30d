"""A translator known in closed form, in checkpoints of the families that it can belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_avatars.checkpoints import WholeFiles, build
from lightning_avatars.networks.translator import Translator
from tests.conf.tiny import TinyFaces
from tests.conf.translation import PARTS

ROWS = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0]])  # labels of training pictures
BRIGHTER = torch.tensor([0.1, 0.2, 0.4])  # for each label
FILES = {"Paired": "paired", "Domain": "domain", "OneWay": "domain", "Attribute": "attribute"}


class Rule(Translator):
    """The first three planes, their signs changed and half as large, plus something for each label.

    Args:
        channels: Colours.
        source_channels: Planes of the source; 0 for the images' colours.
        label_dim: Length of the labels.
        scale: What planes are multiplied by.
    """

    def __init__(self, channels: int = 3, source_channels: int = 0, label_dim: int = 0, scale: float = -0.5) -> None:
        super().__init__(label_dim, 4)
        self.source_channels = source_channels or channels
        self.scale = nn.Parameter(torch.tensor(scale))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_size(source)
        assert source.shape[1] == self.source_channels
        self.sizes.append(tuple(source.shape))
        return rule(source, labels, self.scale)


def rule(source: Tensor, labels: Tensor | None = None, scale: Tensor | float = -0.5) -> Tensor:
    """What the network makes of planes."""
    x = source[:, :3] * scale
    return x if labels is None else x + (labels @ BRIGHTER)[:, None, None, None]


def part(name: str, **arguments: object) -> dict[str, Any]:
    """Name a class with arguments in a configuration."""
    return {"class_path": name, "init_args": arguments}


def translating_checkpoint(
    path: Path,
    kind: str,
    source_channels: int = 0,
    maps: bool = False,
    attributes: list[str] | None = None,
    rows: Tensor | None = None,
    generator: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint.

    Args:
        path: Where it goes.
        kind: ``Paired``, ``Domain``, ``OneWay`` or ``Attribute``.
        source_channels: Of pairs' sources.
        maps: Whether pairs have label maps.
        attributes: Groups of labels that are changed; all by default.
        rows: Labels of training pictures, which make pairs conditional.
        generator: What translates pairs; by default that rule.
    """
    names, planes = PARTS if maps else [], source_channels + (len(PARTS) if maps else 0)
    rows = ROWS if kind == "Attribute" else rows
    label_dim = 0 if rows is None else 3
    rule, judge = (
        part(f"tests.conf.{name}", source_channels=planes, label_dim=label_dim)
        for name in ("translating.Rule", "translation.TinyJudge")
    )
    if kind == "Domain":
        domains = {"domain_names": ["night", "day"]}
        per_domain = "lightning_avatars.networks.per_domain.PerDomain"
        rule = part(f"{per_domain}Translator", make=rule, **domains)
        judge = part(f"{per_domain}Discriminator", make=judge, **domains)
    game = part(
        f"lightning_avatars.families.{FILES[kind]}_translation.{kind}Translation",
        generator=generator or rule,
        discriminator=judge,
        objective=part("lightning_avatars.objectives.adversarial.LeastSquares"),
        conditional=rows is not None,
    )
    if rows is not None:
        term = {"class": part("lightning_avatars.terms.classification.Classification")}
        game["init_args"] |= {"discriminator_terms": term, "generator_terms": term}
    if kind == "Attribute":
        game["init_args"]["attributes"] = attributes
    data = {"dataset": {"class_path": "tests.conf.tiny.TinyFaces"}, "resolution": 8}
    module = build({"model": game, "data": data})
    module.domain_names = ["night", "day"] if kind in ("Domain", "OneWay") else []
    module.source_channels, module.mask_names = source_channels, names
    if rows is not None:
        module.label_names, module.label_rows = TinyFaces().label_names, rows
    kept = {"config": module.config, "state_dict": module.state_dict()}
    WholeFiles(beside=False).save_checkpoint(kept, path)
    return path
