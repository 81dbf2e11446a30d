"""Priors: their moments, their range, and one vector per seed."""

import pytest
import torch

from lightning_avatars.latents import Gaussian, Uniform
from lightning_avatars.seeding import derive

PRIORS = [Gaussian(), Uniform()]


def draw(prior, count=20_000, dim=8):
    return prior.draw(count, dim, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("prior", "variance", "kurtosis"), [(Gaussian(), 1, 3), (Uniform(), 1 / 3, 9 / 5)])
def test_moments(prior, variance, kurtosis):
    z = draw(prior).double()
    assert z.shape == (20_000, 8)
    assert z.mean(0).abs().max() < 0.03
    torch.testing.assert_close(z.T.cov(), variance * torch.eye(8).double(), rtol=0, atol=0.04)
    assert (z**4).mean() / (z**2).mean() ** 2 == pytest.approx(kurtosis, rel=0.03)


def test_uniform_fills_its_range():
    z = draw(Uniform())
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() < 1


@pytest.mark.parametrize("prior", PRIORS)
def test_draws_follow_the_generator_alone(prior):
    torch.manual_seed(0)
    first, state = draw(prior, 4), torch.get_rng_state()
    assert torch.equal(draw(prior, 4), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("prior", PRIORS)
def test_a_seed_gives_the_same_vector_in_any_batch(prior):
    seeds = torch.tensor([4, 0, 4, 2**40])
    together = prior.of_seeds(seeds, 8)
    assert together.shape == (4, 8)
    assert torch.equal(together, torch.cat([prior.of_seeds(s[None], 8) for s in seeds]))
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    assert torch.equal(together[:1], prior.draw(1, 8, torch.Generator().manual_seed(derive(4, "sample"))))


def test_neighbouring_seeds_are_independent():
    z = Gaussian().of_seeds(torch.arange(2000), 8).double()
    assert z.mean(0).abs().max() < 0.1
    assert (z[:-1] * z[1:]).mean().abs() < 0.03
