"""Machines against the enumeration of all their states, and the stack of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lightning_avatars.networks.boltzmann import BernoulliUnits, BoltzmannMachine, DeepBelief, GaussianUnits
from lightning_avatars.seeding import Draws

DEVICE = torch.device("cpu")


def states(size):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=torch.float64)


def machine(units=BernoulliUnits, visible=5, hidden=4, spread=1.0):
    """A machine whose weights and biases are large enough to matter."""
    torch.manual_seed(3)
    made = BoltzmannMachine(units(visible), hidden).double().requires_grad_(False)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=spread)
    for buffer in made.buffers():
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    return made


def draws(count, seed=0):
    return Draws(seed, 0, count, 0, count, DEVICE)


def by_hand(made, v, h):
    """E(v, h) of Bernoulli units, one sum at a time."""
    total = -sum(float(made.visible.bias[i] * v[i]) for i in range(len(v)))
    total -= sum(float(made.hidden_bias[j] * h[j]) for j in range(len(h)))
    return total - sum(float(v[i] * made.weight[i, j] * h[j]) for i in range(len(v)) for j in range(len(h)))


def test_energies_are_the_sums_of_the_definition():
    made = machine()
    v, h = states(5)[[3, 30, 17]], states(4)[[1, 14, 9]]
    expected = [by_hand(made, *pair) for pair in zip(v, h, strict=True)]
    assert made.energy(v, h).tolist() == pytest.approx(expected)


def test_energies_of_gaussian_units_are_the_sums_of_the_definition():
    made = machine(GaussianUnits)
    torch.nn.init.constant_(made.visible.log_variance, math.log(0.49))
    v, h = torch.randn(3, 5, dtype=torch.float64), states(4)[[1, 14, 9]]
    expected = (v - made.visible.bias).square().sum(1) / 0.98 - h @ made.hidden_bias
    expected -= torch.einsum("ni,ij,nj->n", v / 0.49, made.weight, h)
    torch.testing.assert_close(made.energy(v, h), expected)


@pytest.mark.parametrize("units", [BernoulliUnits, GaussianUnits])
def test_the_free_energy_sums_over_all_hidden_states(units):
    made = machine(units)
    v = torch.rand(6, 5, dtype=torch.float64).round()
    energies = torch.stack([made.energy(v, h.expand(6, 4)) for h in states(4)])
    torch.testing.assert_close(made.free_energy(v), -torch.logsumexp(-energies, 0))


def test_conditionals_are_those_of_the_joint_distribution():
    made = machine()
    v, h = states(5), states(4)
    joint = torch.stack([-made.energy(v, one.expand(32, 4)) for one in h]).exp()  # hidden x visible
    torch.testing.assert_close(made.hidden_logits(v).sigmoid(), (joint.T @ h) / joint.sum(0)[:, None])
    torch.testing.assert_close(made.mean_visible(h), (joint @ v) / joint.sum(1)[:, None])


def test_the_energy_of_gaussian_units_is_the_density_that_they_are_drawn_from():
    made = machine(GaussianUnits, spread=0.5)
    h = states(4)[[5, 5]]
    v = torch.randn(2, 5, dtype=torch.float64)
    told = made.visible.log_prob(v, made.drive(h))
    energies = -made.energy(v, h)
    torch.testing.assert_close(told[0] - told[1], energies[0] - energies[1])
    normal = torch.distributions.Normal(made.mean_visible(h), (made.visible.log_variance / 2).exp())
    torch.testing.assert_close(told, normal.log_prob(v).sum(1))


@pytest.mark.parametrize("units", [BernoulliUnits, GaussianUnits])
def test_states_are_drawn_from_their_conditionals(units):
    made = machine(units, spread=0.5)
    h = states(4)[[6]].expand(20_000, 4)
    v = made.draw_visible(h, draws(20_000), "v")
    mean = made.mean_visible(h[:1])[0]
    variance = mean * (1 - mean) if units is BernoulliUnits else made.visible.log_variance.exp()
    assert ((v.mean(0) - mean) / (variance / 20_000).sqrt()).abs().max() < 4
    torch.testing.assert_close(v.var(0), variance, rtol=0.05, atol=0.0)
    hidden = made.draw_hidden(v[:1].expand(20_000, 5), draws(20_000, seed=1), "h")
    assert (hidden.mean(0) - made.hidden_logits(v[:1])[0].sigmoid()).abs().max() < 0.015


def test_gibbs_chains_come_to_the_machines_distribution():
    made = machine()
    v, _ = made.gibbs(torch.zeros(20_000, 4, dtype=torch.float64), 30, draws(20_000), "chain")
    exact = (-made.free_energy(states(5))).softmax(0)
    index = (v @ torch.tensor([16.0, 8, 4, 2, 1], dtype=torch.float64)).long()
    found = torch.bincount(index, minlength=32) / 20_000
    assert (found - exact).abs().sum() < 0.04


@pytest.mark.parametrize("units", [BernoulliUnits, GaussianUnits])
def test_the_gradient_of_free_energies_is_contrastive_divergences(units):
    """<v h>data - <v h>model with hidden probabilities, the update of Hinton 2002, turned round to be minimised."""
    made = machine(units, visible=7, hidden=6, spread=0.3).requires_grad_()
    data, model = (torch.rand(10, 7, dtype=torch.float64).round() for _ in range(2))
    (made.free_energy(data).mean() - made.free_energy(model).mean()).backward()
    variance = made.visible.log_variance.exp() if units is GaussianUnits else torch.ones(7)
    h = [(made.hidden_bias + (v / variance) @ made.weight).sigmoid() for v in (data, model)]
    expected = [(v / variance).T @ probability / 10 for v, probability in zip((data, model), h, strict=True)]
    torch.testing.assert_close(made.weight.grad, expected[1] - expected[0])
    torch.testing.assert_close(made.hidden_bias.grad, h[1].mean(0) - h[0].mean(0))
    torch.testing.assert_close(made.visible.bias.grad, (model.mean(0) - data.mean(0)) / variance)


def test_at_beta_0_units_are_independent_and_at_the_rates_of_the_data():
    made = machine()
    data = torch.rand(50, 5, dtype=torch.float64).round()
    made.visible.begin(data)
    rates = (data.sum(0) + 0.5) / 51
    torch.testing.assert_close(made.visible.bias.sigmoid(), rates)
    torch.nn.init.normal_(made.visible.bias)
    torch.testing.assert_close(made.visible.mean(made.drive(states(4)[[7]], 0.0), 0.0)[0], rates)
    brute = torch.logsumexp(-made.free_energy(states(5), 0.0), 0)
    torch.testing.assert_close(made.base_log_partition(), brute)


def test_gaussian_units_standardise_pixels_and_give_them_back():
    units = GaussianUnits(3)
    x = torch.rand(40, 3) * torch.tensor([1.0, 0.2, 0.0])
    units.begin(units.from_images(x, None))
    v = units.from_images(x, None)
    torch.testing.assert_close(v[:, :2].std(0, correction=0), torch.ones(2))
    assert v.abs().max() < 5 and units.deviation[2] == 0.05, "a pixel that never changes is not blown up"
    torch.testing.assert_close(units.to_images(v), x)


def test_a_pixel_is_on_as_often_as_it_is_bright():
    units = BernoulliUnits(3)
    v = units.from_images(torch.tensor([[-1.0, 0.0, 1.0]]).expand(4_000, 3), draws(4_000))
    assert v[:, 0].sum() == 0 and v[:, 2].sum() == 4_000 and abs(v[:, 1].mean() - 0.5) < 0.03


def stack(widths=(3, 4), **options):
    torch.manual_seed(0)
    network = DeepBelief(2, 1, widths, **options).double().requires_grad_(False)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return network


def test_a_stacked_machine_goes_up_and_down_as_it_did_alone():
    for units in (BernoulliUnits, GaussianUnits):
        network = stack(visible=units)
        v, h = torch.rand(5, 4, dtype=torch.float64), states(3)[:5]
        below = network.machine(0)
        network.stack(1)
        assert int(network.depth) == 2
        torch.testing.assert_close(network.up(v, 2)[1], below.hidden_logits(v).sigmoid())
        torch.testing.assert_close(network.down(h, 2)[0], below.mean_visible(h))


def test_the_weight_of_one_machine_is_its_free_energy():
    network = stack([3])
    v = states(4)
    torch.testing.assert_close(network.log_weight(v, draws(16), 1), -network.machine(0).free_energy(v))


def test_weights_of_hidden_states_add_up_to_the_probability_of_a_picture():
    """E_q of p(v, h) / q(h | v) is the sum of p(v | h) p(h) over h, which three hidden units allow."""
    network = stack()
    h = states(3)
    top = -network.machine(1).free_energy(h)
    v = torch.tensor([[1.0, 0, 1, 1]], dtype=torch.float64)
    exact = torch.logsumexp(network.generative(0, v.expand(8, 4), h) + top, 0)
    drawn = network.log_weight(v.expand(40_000, 4), draws(40_000), 2)
    assert float(torch.logsumexp(drawn, 0)) - math.log(40_000) == pytest.approx(float(exact), abs=0.03)
    assert drawn.mean() < exact, "the mean of logarithms is a bound"


def test_images_come_down_from_latents_and_go_up_to_them():
    network = DeepBelief(8, 3, [6, 5])
    assert isinstance(network.machine(0).visible, GaussianUnits)
    assert isinstance(DeepBelief(8, 1, [6]).machine(0).visible, BernoulliUnits)
    network.stack(1)
    images = network(torch.rand(4, 5))
    assert images.shape == (4, 3, 8, 8) and network.encode(images).shape == (4, 5)


def test_networks_without_machines_and_numbers_that_bernoulli_units_do_not_have_are_errors():
    for widths in ([], [4, 0]):
        with pytest.raises(ValueError, match=r"at least one machine of at least one hidden unit"):
            DeepBelief(8, 1, widths)
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\], got -1 to 3: .* need GaussianUnits"):
        BernoulliUnits(2).begin(torch.tensor([[-1.0, 3.0]]))
