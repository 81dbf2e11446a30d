"""Running averages of a network's weights, with a half-life in images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lightning_avatars.schedules import Schedule, value_at

Place = tuple[dict[str, Tensor | None], str]  # where a module keeps a tensor


class Average(nn.Module):
    """An exponential moving average of a network; buffers are copied (Karras et al. 2018, Sec. 4).

    Args:
        network: What is averaged; a frozen copy is kept in ``average``.
        half_life: Images after which old weights count half, or a schedule of it; where that says 0, the average is the
            network.
        ramp: The half-life is at most this share of the images seen, so that early weights are forgotten: StyleGAN2's
            rule, here for every family, whatever its own paper has.
    """

    def __init__(self, network: nn.Module, half_life: float | Schedule, ramp: float = 0.05) -> None:
        super().__init__()
        if not isinstance(half_life, Schedule) and half_life <= 0:
            raise ValueError(f"half_life is in images and must be above 0, got {half_life}")
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.half_life, self.ramp = half_life, ramp
        self.followed: tuple[nn.Module, dict[str, list[Place]], dict[str, list[Place]]] | None = None

    def train(self, mode: bool = True) -> Average:
        return self  # the average never trains

    @torch.no_grad()
    def update(self, network: nn.Module, batch: int, images_seen: int) -> None:
        """Move towards ``network`` by what ``batch`` images are worth after ``images_seen`` images."""
        half_life = max(min(value_at(self.half_life, images_seen), images_seen * self.ramp), 1e-8)
        weight = 1 - 0.5 ** (batch / half_life)
        if self.followed is None or self.followed[0] is not network:
            self.followed = (network, places(self.average), places(network))
        _, own, others = self.followed
        torch._foreach_lerp_(found(own["_parameters"]), found(others["_parameters"]), weight)
        if own["_buffers"]:
            torch._foreach_copy_(found(own["_buffers"]), found(others["_buffers"]))


def places(network: nn.Module) -> dict[str, list[Place]]:
    """Find where a network's parameters and buffers are kept, each once: walking it takes a tenth of a millisecond."""
    kept: dict[str, list[Place]] = {"_parameters": [], "_buffers": []}
    known: set[int] = set()
    for module in network.modules():
        for kind, there in kept.items():
            owner = getattr(module, kind)
            there += [(owner, name) for name, tensor in owner.items() if tensor is not None and id(tensor) not in known]
            known |= {id(tensor) for tensor in owner.values()}
    return kept


def found(kept: list[Place]) -> list[Tensor]:
    """Read the tensors that are there now: a network may have put others in their place."""
    return [owner[name] for owner, name in kept]  # type: ignore[misc]
