"""Layers whose weights are scaled while they run, so that all learn at an equal pace (Karras et al. 2018, Sec. 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

ROOT_2 = math.sqrt(2)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, scaled to keep the second moment of normal numbers near one (StyleGAN2, Sec. B)."""
    return nn.functional.leaky_relu(x, 0.2) * ROOT_2


def pixel_norm(x: Tensor) -> Tensor:
    """Scale each vector along dimension 1 to a mean square of one (Karras et al. 2018, Sec. 4.2)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # float16 has no room for squares
    return x * (wide.square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


class EqualizedLinear(nn.Module):
    """A linear layer with weights from N(0, 1) that are scaled by He's constant in each forward pass.

    Args:
        inputs: Length of the input vectors.
        outputs: Length of the output vectors.
        bias: What the bias starts with; None for no bias.
        learning_rate: Factor of the learning rate, such as 0.01 for a mapping network.
        gain: Factor of the weights.
    """

    def __init__(
        self, inputs: int, outputs: int, bias: float | None = 0.0, learning_rate: float = 1.0, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / learning_rate)) if bias is not None else None
        self.scale, self.learning_rate = gain * learning_rate / math.sqrt(inputs), learning_rate

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return linear(x, self.weight * self.scale)
        return torch.addmm(self.bias, x, self.weight.T, beta=self.learning_rate, alpha=self.scale)


class EqualizedConv2d(nn.Module):
    """A convolution that keeps the image's size, with weights scaled by He's constant in each forward pass.

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Height and width of the kernel, odd.
        bias: Whether there is a bias, which starts at zero.
        gain: Factor of the weights.
    """

    def __init__(self, before: int, after: int, kernel: int = 3, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.scale, self.padding = gain / math.sqrt(before * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class MinibatchDeviation(nn.Module):
    """Append a channel that says how much the images of a group differ (Karras et al. 2018, Sec. 3).

    Groups are neighbours in the batch: where processes and chunks hold whole groups, they see what one process would.

    Args:
        group: Images of a group; fewer where the batch can't be divided by it.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        if group < 1:
            raise ValueError(f"group counts the images that are compared and must be at least 1, got {group}")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        group = math.gcd(n, self.group)
        y = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, group, *x.shape[1:])
        variance = (y - y.mean(1, keepdim=True)).square().mean(1)  # four times as fast as torch's
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # of each group
        extra = deviation.repeat_interleave(group)[:, None, None, None].expand(-1, -1, h, w)
        return torch.cat([x, extra.to(x.dtype)], 1)
