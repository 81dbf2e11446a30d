"""Priors: their moments, their range, and one vector per seed."""

import pytest
import torch

from lightning_avatars.latents import Codes, Gaussian, Uniform
from lightning_avatars.seeding import derive

PRIORS = [Gaussian(), Uniform(), Codes(1, [3, 2], 2)]


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


def test_codes_are_noise_then_one_hots_then_uniform_numbers():
    prior = Codes(5, [10, 2], 3)
    z = draw(prior, dim=20)
    noise = z[:, :5].double()
    assert noise.mean(0).abs().max() < 0.03 and noise.std(0).sub(1).abs().max() < 0.03
    (digits, coins), continuous = prior.split(z)
    assert torch.equal(torch.cat([z[:, :5], digits, coins, continuous], 1), z)
    for code, values in ((digits, 10), (coins, 2)):
        assert set(code.unique().tolist()) == {0.0, 1.0} and (code.sum(1) == 1).all()
        torch.testing.assert_close(code.mean(0), torch.full((values,), 1 / values), rtol=0, atol=0.02)
    assert -1 <= continuous.min() < -0.999 and 0.999 < continuous.max() < 1
    torch.testing.assert_close(continuous.T.cov(), torch.eye(3) / 3, rtol=0, atol=0.02)
    assert prior.code_dim == 10 + 2 + 2 * 3 and Gaussian().code_dim == 0


def test_codes_may_stand_without_noise_or_without_one_of_the_kinds():
    (code,), none = Codes(0, [4]).split(draw(Codes(0, [4]), 7, 4))
    assert code.shape == (7, 4) and none.shape == (7, 0)
    none, numbers = Codes(2, [], 3).split(draw(Codes(2, [], 3), 7, 5))
    assert none == [] and numbers.shape == (7, 3)


def test_codes_say_what_does_not_add_up():
    with pytest.raises(ValueError, match=r"latent_dim is 128, but .* are 62 \+ 10 \+ 2 = 74 numbers: make these equal"):
        Codes(62, [10], 2).check(128)
    with pytest.raises(ValueError, match="74 numbers"):
        draw(Codes(62, [10], 2), dim=73)
    Codes(62, [10], 2).check(74), Gaussian().check(1)
    with pytest.raises(ValueError, match=r"at least one entry, but generator\.latent_dim is 0"):
        Uniform().check(0)


@pytest.mark.parametrize(("noise", "categorical", "continuous"), [(-1, [10], 0), (4, [10, 1], 0), (4, [2], -1)])
def test_impossible_codes_are_refused(noise, categorical, continuous):
    with pytest.raises(ValueError, match=f"got noise {noise}, "):
        Codes(noise, categorical, continuous)
    with pytest.raises(ValueError, match="codes need at least one"):
        Codes(4, [], 0)
