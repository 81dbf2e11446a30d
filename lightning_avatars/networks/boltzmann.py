"""Restricted Boltzmann machines and the deep belief network that a stack of them is (Hinton, Osindero and Teh 2006).

A machine gives every pair of visible units v and hidden units h an energy E(v, h); p(v, h) = exp(-E(v, h)) / Z. Hidden
units are 0 or 1. All functions take rows, one for each chain or picture, and an inverse temperature ``beta`` from 0,
where the units are independent, to 1, the machine itself: annealing needs the machines between.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from lightning_avatars.networks.base import Generator

SPREAD = 0.01  # of a machine's first weights (Hinton 2010, Sec. 8)
LEAST_DEVIATION = 0.05  # of pixels in [-1, 1], so that those that never change are not blown up
LEAST_LOG_VARIANCE = math.log(0.01)  # of Gaussian units, lest the likelihood of a constant pixel grow for ever


class Noise(Protocol):
    """Random numbers for some rows, by the name of what they are for."""

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), N x shape."""

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal numbers, N x shape."""


class Units(nn.Module, ABC):
    """Visible units.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.bias = nn.Parameter(torch.zeros(size))

    @abstractmethod
    def from_images(self, x: Tensor, noise: Noise | None) -> Tensor:
        """Turn pixels in [-1, 1], N x size, into states; into their means where there is no noise."""

    @abstractmethod
    def to_images(self, v: Tensor) -> Tensor:
        """Turn means of states, N x size, into pixels, about in [-1, 1]."""

    @abstractmethod
    def begin(self, v: Tensor) -> None:
        """Take biases and scales from means of states, N x size, as ``from_images`` gave them."""

    @abstractmethod
    def scaled(self, v: Tensor) -> Tensor:
        """Return what of states reaches the hidden units, N x size."""

    @abstractmethod
    def energy(self, v: Tensor, beta: float = 1.0) -> Tensor:
        """Return the energy of states without that of hidden units: N."""

    @abstractmethod
    def mean(self, drive: Tensor, beta: float = 1.0) -> Tensor:
        """Return mean states, N x size, under what comes from the hidden units, N x size."""

    @abstractmethod
    def draw(self, drive: Tensor, noise: Noise, stream: str, beta: float = 1.0) -> Tensor:
        """Draw states, N x size, under what comes from the hidden units, N x size."""

    @abstractmethod
    def log_prob(self, v: Tensor, drive: Tensor) -> Tensor:
        """Return ln p(v | h), N, under what comes from the hidden units, N x size."""

    @abstractmethod
    def log_partition(self) -> Tensor:
        """Return the logarithm of the partition function of these units alone at ``beta`` 0."""


class BernoulliUnits(Units):
    """Units that are 0 or 1; a pixel is 1 with a probability that is its brightness, drawn anew whenever it is seen.

    That is the binarisation of Salakhutdinov and Murray 2008. At ``beta`` 0 the units have the rates of the data, as
    in their Sec. 4.1.
    """

    base: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer("base", torch.zeros(size))

    def from_images(self, x: Tensor, noise: Noise | None) -> Tensor:
        brightness = x.add(1).div(2)
        return brightness if noise is None else (noise.uniform("pixels", self.size) < brightness).to(x.dtype)

    def to_images(self, v: Tensor) -> Tensor:
        return 2 * v - 1

    @torch.no_grad()
    def begin(self, v: Tensor) -> None:
        if float(v.min()) < 0 or float(v.max()) > 1:
            raise ValueError(
                f"Bernoulli units stand for numbers in [0, 1], got {float(v.min()):g} to {float(v.max()):g}: pictures "
                "are bytes, or in [-1, 1] after images.to_float; other numbers need GaussianUnits"
            )
        rate = (v.sum(0) + 0.5) / (len(v) + 1)
        self.base.copy_(rate.logit())
        self.bias.copy_(self.base)

    def scaled(self, v: Tensor) -> Tensor:
        return v

    def field(self, beta: float) -> Tensor:
        return torch.lerp(self.base, self.bias, beta)

    def energy(self, v: Tensor, beta: float = 1.0) -> Tensor:
        return -(v @ self.field(beta))

    def mean(self, drive: Tensor, beta: float = 1.0) -> Tensor:
        return (self.field(beta) + drive).sigmoid()

    def draw(self, drive: Tensor, noise: Noise, stream: str, beta: float = 1.0) -> Tensor:
        return (noise.uniform(stream, self.size) < self.mean(drive, beta)).to(drive.dtype)

    def log_prob(self, v: Tensor, drive: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(self.bias + drive, v, reduction="none").sum(1)

    def log_partition(self) -> Tensor:
        return softplus(self.base).sum()


class GaussianUnits(Units):
    """Real units with a variance of their own that is learned (Cho, Ilin and Raiko 2011, Eq. 2 to 4).

    A pixel is standardised: its mean over the data is subtracted, and it is divided by its deviation over the data.

    Args:
        size: How many.
    """

    centre: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.log_variance = nn.Parameter(torch.zeros(size))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def from_images(self, x: Tensor, noise: Noise | None) -> Tensor:
        return (x - self.centre) / self.deviation

    def to_images(self, v: Tensor) -> Tensor:
        return v * self.deviation + self.centre

    @torch.no_grad()
    def begin(self, v: Tensor) -> None:
        pixels = self.to_images(v)
        self.centre.copy_(pixels.mean(0))
        self.deviation.copy_(pixels.std(0, correction=0).clamp(min=LEAST_DEVIATION))

    @property
    def log_variances(self) -> Tensor:
        return self.log_variance.clamp(min=LEAST_LOG_VARIANCE)

    def scaled(self, v: Tensor) -> Tensor:
        return v * (-self.log_variances).exp()

    def energy(self, v: Tensor, beta: float = 1.0) -> Tensor:
        return ((v - self.bias).square() * (-self.log_variances).exp()).sum(1) / 2

    def mean(self, drive: Tensor, beta: float = 1.0) -> Tensor:
        return self.bias + drive

    def draw(self, drive: Tensor, noise: Noise, stream: str, beta: float = 1.0) -> Tensor:
        z = noise.normal(stream, self.size)
        return self.mean(drive) + (self.log_variances / 2).exp() * z.to(drive.dtype)

    def log_prob(self, v: Tensor, drive: Tensor) -> Tensor:
        return -self.energy(v - drive) - self.log_partition()

    def log_partition(self) -> Tensor:
        return (self.log_variances + math.log(2 * math.pi)).sum() / 2


class BoltzmannMachine(nn.Module):
    """A restricted Boltzmann machine: E(v, h) = visible energy - c h - s(v) W h.

    Args:
        visible: Its visible units; s(v) is v, or v over the variance for Gaussian units.
        hidden: Number of hidden units.
    """

    def __init__(self, visible: Units, hidden: int) -> None:
        super().__init__()
        self.visible, self.hidden = visible, hidden
        self.weight = nn.Parameter(SPREAD * torch.randn(visible.size, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """Return E(v, h), N, of states N x visible and N x hidden."""
        return self.visible.energy(v) - (h * self.hidden_logits(v)).sum(1)

    def hidden_logits(self, v: Tensor, beta: float = 1.0) -> Tensor:
        """Return the logits of hidden units, N x hidden, given visible ones."""
        return beta * torch.addmm(self.hidden_bias, self.visible.scaled(v), self.weight)

    def free_energy(self, v: Tensor, beta: float = 1.0) -> Tensor:
        """Return F(v) = -ln sum over h of exp(-E(v, h)), N."""
        return self.visible.energy(v, beta) - softplus(self.hidden_logits(v, beta)).sum(1)

    def drive(self, h: Tensor, beta: float = 1.0) -> Tensor:
        """Return what comes from hidden units to the visible ones, N x visible."""
        return beta * (h @ self.weight.T)

    def draw_hidden(self, v: Tensor, noise: Noise, stream: str, beta: float = 1.0) -> Tensor:
        """Draw hidden states, N x hidden, given visible ones."""
        probability = self.hidden_logits(v, beta).sigmoid()
        return (noise.uniform(f"{stream}/hidden", self.hidden) < probability).to(probability.dtype)

    def draw_visible(self, h: Tensor, noise: Noise, stream: str, beta: float = 1.0) -> Tensor:
        """Draw visible states, N x visible, given hidden ones."""
        return self.visible.draw(self.drive(h, beta), noise, f"{stream}/visible", beta)

    def mean_visible(self, h: Tensor) -> Tensor:
        """Return mean visible states, N x visible, given hidden ones."""
        return self.visible.mean(self.drive(h))

    @torch.no_grad()
    def gibbs(self, h: Tensor, steps: int, noise: Noise, stream: str) -> tuple[Tensor, Tensor]:
        """Draw visible and then hidden states so many times in turn, from hidden ones; return the last of both."""
        for step in range(steps):
            v = self.draw_visible(h, noise, f"{stream}/{step}")
            h = self.draw_hidden(v, noise, f"{stream}/{step}")
        return v, h

    def base_log_partition(self) -> Tensor:
        """Return the logarithm of the partition function at ``beta`` 0, where it is known."""
        return self.visible.log_partition() + self.hidden * math.log(2)


class DeepBelief(Generator):
    """Machines on top of each other, the first ``depth`` of which are in use.

    The topmost machine is as it is. The others below have become a directed network that goes down, with weights and
    visible biases of theirs, and beside it a network of recognition goes up; both have the machine's weights until
    fine-tuning unties them. A latent vector is the state of the topmost hidden units: ``depth`` says which these are.

    Args:
        resolution: Height and width of the images.
        channels: Channels of the images.
        widths: Hidden units of the machines, from the pixels up.
        visible: Makes the visible units of the first machine; by default Bernoulli units for grey pictures, Gaussian
            ones for coloured pictures.
    """

    depth: Tensor

    def __init__(
        self,
        resolution: int = 32,
        channels: int = 3,
        widths: Sequence[int] = (512, 512),
        visible: Callable[[int], Units] | None = None,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(
                "a deep belief network has at least one machine of at least one hidden unit, such as widths: [512], "
                f"got {list(widths)}"
            )
        super().__init__(widths[-1])
        self.shape = (channels, resolution, resolution)
        make = visible or (BernoulliUnits if channels == 1 else GaussianUnits)
        units = [make(math.prod(self.shape)), *(BernoulliUnits(width) for width in widths[:-1])]
        self.machines = nn.ModuleList(BoltzmannMachine(u, width) for u, width in zip(units, widths, strict=True))
        self.recognition = nn.ModuleList(nn.Linear(u.size, w) for u, w in zip(units, widths[:-1], strict=False))
        self.register_buffer("depth", torch.ones((), dtype=torch.int64))

    def machine(self, level: int) -> BoltzmannMachine:
        """Return one of the machines, 0 for the one that sees pixels."""
        machine = self.machines[level]
        assert isinstance(machine, BoltzmannMachine)
        return machine

    def recogniser(self, level: int) -> nn.Linear:
        """Return the layer of recognition beside a machine below the topmost one."""
        layer = self.recognition[level]
        assert isinstance(layer, nn.Linear)
        return layer

    def pixels(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Turn images, N C H W in [-1, 1], into states of the visible units; into their means without noise."""
        return self.machine(0).visible.from_images(images.flatten(1), noise)

    def pictures(self, v: Tensor) -> Tensor:
        """Turn means of the visible units into images, N C H W, about in [-1, 1]."""
        return self.machine(0).visible.to_images(v).reshape(-1, *self.shape)

    @torch.no_grad()
    def up(self, v: Tensor, depth: int, noise: Noise | None = None) -> list[Tensor]:
        """Return states from the pixels' to those that the machine ``depth`` sees; means where there is no noise."""
        states = [v]
        for level in range(depth - 1):
            p = self.recogniser(level)(states[-1]).sigmoid()
            states.append(p if noise is None else (noise.uniform(f"up/{level}", p.shape[1]) < p).to(p.dtype))
        return states

    @torch.no_grad()
    def down(self, v: Tensor, depth: int, noise: Noise | None = None) -> list[Tensor]:
        """Return states from the pixels' to ``v``, which machine ``depth`` sees; means where there is no noise."""
        states = [v]
        for level in reversed(range(depth - 1)):
            machine = self.machine(level)
            if noise is None:
                states.append(machine.mean_visible(states[-1]))
            else:
                states.append(machine.draw_visible(states[-1], noise, f"down/{level}"))
        return states[::-1]

    @torch.no_grad()
    def stack(self, depth: int) -> None:
        """Freeze the machine ``depth``, if any, into two directed networks.

        The one on top of it is the topmost from now on.
        """
        if depth:
            below, beside = self.machine(depth - 1), self.recogniser(depth - 1)
            beside.weight.copy_(below.visible.scaled(below.weight.T))
            beside.bias.copy_(below.hidden_bias)
        self.depth.fill_(depth + 1)

    def log_weight(self, v: Tensor, noise: Noise, depth: int) -> Tensor:
        """Weigh one draw of the hidden states of each row: its mean is a bound of ln p(v) + ln Z, N.

        ln p(v | h1) - ln q(h1 | v) + … - F(h) for h below the topmost machine, whose partition function Z is
        (Salakhutdinov and Murray 2008, Sec. 4.2). With one machine it is -F(v), and no bound but exact.
        """
        states = self.up(v, depth, noise)
        told = -self.machine(depth - 1).free_energy(states[-1])
        return told + sum(
            self.generative(level, below, above) - self.recognised(level, below, above)
            for level, (below, above) in enumerate(pairwise(states))
        )

    def generative(self, level: int, below: Tensor, above: Tensor) -> Tensor:
        """Return ln p(below | above), N, of the directed network that goes down."""
        machine = self.machine(level)
        return machine.visible.log_prob(below, machine.drive(above))

    def recognised(self, level: int, below: Tensor, above: Tensor) -> Tensor:
        """Return ln q(above | below), N, of the network of recognition."""
        logits = self.recogniser(level)(below)
        return -binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)

    def encode(self, images: Tensor) -> Tensor:
        """Return mean states of the topmost hidden units, N x width, by one pass up of means."""
        depth = int(self.depth)
        v = self.up(self.pixels(images), depth)[-1]
        return self.machine(depth - 1).hidden_logits(v).sigmoid()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        depth = int(self.depth)
        return self.pictures(self.down(self.machine(depth - 1).mean_visible(z), depth)[0])
