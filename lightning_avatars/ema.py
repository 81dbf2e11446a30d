"""Running averages of a network's weights, with a half-life in images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """An exponential moving average of a network; buffers are copied (Karras et al. 2018, Sec. 4).

    Args:
        network: What is averaged; a frozen copy is kept in ``average``.
        half_life: Images after which old weights count half.
        ramp: The half-life is at most this share of the images seen, so that early weights are forgotten (StyleGAN2).
    """

    def __init__(self, network: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        super().__init__()
        if half_life <= 0:
            raise ValueError(f"half_life is in images and must be above 0, got {half_life}")
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.half_life, self.ramp = half_life, ramp

    def train(self, mode: bool = True) -> Average:
        return self  # the average never trains

    @torch.no_grad()
    def update(self, network: nn.Module, batch: int, images_seen: int) -> None:
        """Move towards ``network`` by what ``batch`` images are worth after ``images_seen`` images."""
        half_life = max(min(self.half_life, images_seen * self.ramp), 1e-8)
        weight = 1 - 0.5 ** (batch / half_life)
        torch._foreach_lerp_(list(self.average.parameters()), list(network.parameters()), weight)
        kept: list[Tensor] = list(self.average.buffers())
        if kept:
            torch._foreach_copy_(kept, list(network.buffers()))
