"""Weights of a generator's losses that depend on the other losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_avatars.metrics.processes import add_up, rank_and_world

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


class Balance(nn.Module, ABC):
    """What weighs the generator's losses by one another."""

    def check(self, module: Game) -> None:
        """Raise a ValueError where this game has no place for it; called before any training."""

    @abstractmethod
    def forward(self, losses: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Return the losses of one chunk, by name, weighed; ``adversarial`` is one of them."""


class AdaptiveWeight(Balance):
    """As strong a pull of the adversary on the generator's last layer as of all other losses (VQGAN, Eq. 7).

    The adversarial loss is multiplied by the norm of the other losses' gradient over that of its own, both in the
    weights of the last layer and over the images of all processes; ``adversarial_weight`` comes on top. Losses that
    don't reach that layer, such as the codebook's, don't count. Logs ``balance/adaptive``. With ``micro_batch``, each
    chunk is weighed by itself.

    Args:
        layer: Path of the generator's last layer.
        delta: Added to the norm of the adversarial gradient.
        largest: The weight is never more than this (the authors' code has it, the paper does not).
    """

    def __init__(self, layer: str = "output", delta: float = 1e-6, largest: float = 1e4) -> None:
        super().__init__()
        if delta <= 0 or largest <= 0:
            raise ValueError(f"delta and largest must be above 0, got {delta} and {largest}")
        self.layer, self.delta, self.largest = layer, delta, largest

    def check(self, module: Game) -> None:
        name = f"{self.layer}.weight"
        if name not in dict(module.generator.named_parameters()):
            raise ValueError(
                f"balance: {type(module.generator).__name__} has no {name}: give AdaptiveWeight the path of its last "
                "layer as `layer`"
            )
        if not dict(module.terms["generator"].named_children()):
            raise ValueError(
                "balance: AdaptiveWeight weighs the adversarial loss by the generator's other losses, but there are no "
                "generator_terms: add a reconstruction, or leave balance out"
            )

    def forward(self, losses: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        others = [loss for name, loss in losses.items() if name != "adversarial"]
        if not (self.training and others):  # none is due, or one process looks alone
            return losses
        weight = step.module.generator.get_submodule(self.layer).get_parameter("weight")
        both = (torch.stack(others).sum(), losses["adversarial"])
        pulls = torch.stack([gradient(loss, weight).flatten() for loss in both])
        add_up(pulls)
        other, own = (pulls / rank_and_world()[1]).norm(dim=1)
        factor = (other / (own + self.delta)).clamp(max=self.largest)
        step.module.latest["balance/adaptive"] = factor
        return losses | {"adversarial": factor * losses["adversarial"]}


def gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """Derive a loss by a weight, in the precision of the forward pass; zeros where it does not depend on it."""
    with torch.autocast(weight.device.type, enabled=False):
        (found,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
    return torch.zeros_like(weight) if found is None else found.float()
