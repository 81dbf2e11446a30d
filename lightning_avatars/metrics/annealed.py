"""Annealed importance sampling of partition functions (Neal 2001; Salakhutdinov and Murray 2008)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_avatars.networks.boltzmann import BoltzmannMachine, Noise


class Ratio(NamedTuple):
    """An estimate of ln(Z_1 / Z_0), and how good it is; of ln Z_1 itself where Z_0 was known and added."""

    log_ratio: float
    error: float  # standard error of log_ratio, by the delta method; near 1 one chain has all the weight: anneal longer
    log_weights: Tensor  # of each chain, float64


def temperatures(steps: int) -> list[float]:
    """Return inverse temperatures from 0 to 1, closest near 1: shares as Salakhutdinov and Murray 2008, Sec. 6.1.

    Of their 14,500 steps 500 go to 0.5, 4,000 on to 0.9 and 10,000 to 1.
    """
    if steps < 1:
        raise ValueError(f"annealing needs at least 1 step, got {steps}")
    places = torch.tensor([0.0, 500.0, 4_500.0, 14_500.0], dtype=torch.float64)
    values = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    at = torch.linspace(0, 14_500, steps + 1, dtype=torch.float64)
    piece = (torch.searchsorted(places, at, right=True) - 1).clamp(max=2)
    share = (at - places[piece]) / (places[piece + 1] - places[piece])
    found: list[float] = torch.lerp(values[piece], values[piece + 1], share).tolist()
    return found


@torch.no_grad()
def annealed_ratio(
    log_density: Callable[[Tensor, float], Tensor],
    transition: Callable[[Tensor, float], Tensor],
    states: Tensor,
    betas: list[float],
) -> Ratio:
    """Estimate the ratio of two partition functions with chains that go from one distribution to the other.

    The mean of the weights is unbiased for Z_1 / Z_0, so that the logarithm is too low rather than too high.

    Args:
        log_density: Logarithms of unnormalised densities, N, of states at an inverse temperature.
        transition: Moves states so that the distribution at an inverse temperature stays as it is.
        states: Independent draws at the first inverse temperature, one for each chain, N x D.
        betas: Inverse temperatures, of Z_0 first and of Z_1 last.

    Returns:
        ln(Z_1 / Z_0), its standard error, and the logarithms of the chains' weights.
    """
    total = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for before, after in pairwise(betas):
        total += log_density(states, after) - log_density(states, before)
        if after != betas[-1]:
            states = transition(states, after)
    return combined(total)


def combined(log_weights: Tensor) -> Ratio:
    """Average weights, given by their logarithms, N; one chain alone can't tell its error, which is then NaN."""
    count = len(log_weights)
    log_mean = float(torch.logsumexp(log_weights, 0)) - math.log(count)
    relative = (log_weights - log_mean).exp()
    return Ratio(log_mean, float(relative.std() / math.sqrt(count)) if count > 1 else math.nan, log_weights)


@torch.no_grad()
def estimated_log_partition(machine: BoltzmannMachine, noise: Noise, chains: int, steps: int) -> Ratio:
    """Estimate the logarithm of a Boltzmann machine's partition function.

    Args:
        machine: The machine, in float64.
        noise: Random numbers for the chains, new ones whenever they are asked for, whatever the stream.
        chains: Chains that go from independent units to the machine.
        steps: Temperatures on the way.
    """

    def transition(v: Tensor, beta: float) -> Tensor:
        return machine.draw_visible(machine.draw_hidden(v, noise, "", beta), noise, "", beta)

    def log_density(v: Tensor, beta: float) -> Tensor:
        return -machine.free_energy(v, beta)

    start = machine.draw_visible(machine.weight.new_zeros(chains, machine.hidden), noise, "", 0.0)
    ratio = annealed_ratio(log_density, transition, start, temperatures(steps))
    return ratio._replace(log_ratio=ratio.log_ratio + float(machine.base_log_partition()))
