"""Annealed importance sampling against partition functions that can be enumerated or are known."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avatars.metrics.annealed import annealed_ratio, combined, temperatures
from lightning_avatars.networks.boltzmann import BernoulliUnits, GaussianUnits
from tests.networks.test_boltzmann import draws, machine, states


class Fresh:
    """Numbers that are new whenever they are asked for."""

    def __init__(self, count, seed=0):
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def uniform(self, stream, *shape):
        return torch.rand(self.count, *shape, generator=self.generator)

    def normal(self, stream, *shape):
        return torch.randn(self.count, *shape, generator=self.generator)


def estimate(made, chains, steps, seed=0):
    noise = Fresh(chains, seed)
    start = made.draw_visible(torch.zeros(chains, made.hidden, dtype=torch.float64), noise, "", 0.0)
    return annealed_ratio(
        lambda v, beta: -made.free_energy(v, beta),
        lambda v, beta: made.draw_visible(made.draw_hidden(v, noise, "", beta), noise, "", beta),
        start,
        temperatures(steps),
    )


def test_the_partition_function_of_a_small_machine_is_found_within_its_standard_error():
    made = machine(visible=10, hidden=8)
    exact = float(torch.logsumexp(-made.free_energy(states(10)), 0) - made.base_log_partition())
    assert abs(exact) > 3
    found = [estimate(made, 200, 50, seed) for seed in range(12)]
    errors = [(ratio.log_ratio - exact) / ratio.error for ratio in found]
    assert max(map(abs, errors)) < 3.5
    assert 0.5 < torch.tensor(errors).square().mean().sqrt() < 1.6, "the error told is the error made"
    assert max(ratio.error for ratio in found) < 0.25


def test_the_partition_function_of_gaussian_units_sums_over_their_hidden_states():
    """Given h, the integral over v is known: a normal one, and exp(c h + drive b / s2 + drive^2 / 2 s2)."""
    made = machine(GaussianUnits, visible=6, hidden=5, spread=0.5)
    h = states(5)
    drive, variance = made.drive(h), made.visible.log_variance.exp()
    each = h @ made.hidden_bias + ((drive * made.visible.bias + drive.square() / 2) / variance).sum(1)
    exact = float(torch.logsumexp(each, 0) + made.visible.log_partition() - made.base_log_partition())
    ratio = estimate(made, 500, 100)
    assert abs(ratio.log_ratio - exact) < 3.5 * ratio.error < 0.5


def test_one_step_is_plain_importance_sampling():
    made = machine(spread=0.3)
    ratio = estimate(made, 5_000, 1)
    start = made.draw_visible(torch.zeros(5_000, 4, dtype=torch.float64), Fresh(5_000), "", 0.0)
    expected = made.free_energy(start, 0.0) - made.free_energy(start, 1.0)
    torch.testing.assert_close(ratio.log_weights, expected)


def test_equal_weights_have_no_error_and_their_mean():
    ratio = combined(torch.full((10,), 500.0, dtype=torch.float64))
    assert ratio.log_ratio == pytest.approx(500) and ratio.error == pytest.approx(0)
    assert math.isnan(combined(torch.zeros(1, dtype=torch.float64)).error)


def test_temperatures_are_those_of_the_paper():
    found = temperatures(14_500)
    assert len(found) == 14_501 and found == sorted(found)
    assert [found[i] for i in (0, 500, 4_500, 14_500)] == pytest.approx([0, 0.5, 0.9, 1])
    assert found[1] == pytest.approx(1 / 1_000) and 1 - found[-2] == pytest.approx(1 / 100_000)
    assert temperatures(1) == [0, 1]
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        temperatures(0)


def test_the_rates_of_the_data_are_a_better_start_than_even_ones():
    made = machine(BernoulliUnits, visible=10, hidden=8, spread=0.5)
    torch.nn.init.constant_(made.visible.bias, -3.0)
    data, _ = made.gibbs(torch.zeros(4_000, 8, dtype=torch.float64), 50, draws(4_000), "chain")
    bias = made.visible.bias.clone()
    made.visible.begin(data)
    made.visible.bias.data.copy_(bias)
    near = estimate(made, 200, 3).error
    made.visible.base.zero_()
    assert near < estimate(made, 200, 3).error / 2
