"""Likelihoods against torch.distributions, sums to one and data that does not suit them."""

import math
import re

import pytest
import torch
from torch.distributions import Bernoulli as Bits
from torch.distributions import Normal

from lightning_avatars.objectives.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from lightning_avatars.seeding import Draws

CPU = torch.device("cpu")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bytes_of(*shape):
    made = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    return made.flatten().scatter(0, torch.tensor([0, 1]), torch.tensor([0, 255])).view(shape) / 127.5 - 1


def draws(total=4, start=0, stop=4, seen=0):
    return Draws(0, seen, total, start, stop, CPU)


def test_bernoulli_is_torch_distributions():
    logits, image = numbers(3, 1, 4, 4) * 5, numbers(3, 1, 4, 4, seed=1).sign()
    expected = Bits(logits=logits).log_prob((image + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(logits, image), expected)
    torch.testing.assert_close(Bernoulli().mean(logits), Bits(logits=logits).mean * 2 - 1)


def test_bernoulli_makes_pixels_white_as_often_as_they_are_bright():
    image = torch.linspace(-1, 1, 5).view(1, 1, 1, 5).expand(4000, 1, 1, 5)
    drawn = Bernoulli().target(image, draws(4000, 0, 4000))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn.mean(0).flatten(), torch.linspace(-1, 1, 5), rtol=0, atol=0.06)
    assert torch.equal(drawn[:, :, :, [0, 4]], image[:, :, :, [0, 4]]), "black stays black, white stays white"


def test_binarisation_depends_on_the_images_seen_and_not_on_how_a_batch_is_cut():
    image = bytes_of(4, 1, 8, 8)
    whole = Bernoulli().target(image, draws())
    halves = [Bernoulli().target(image[i : i + 2], draws(4, i, i + 2)) for i in (0, 2)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, Bernoulli().target(image, draws(seen=4)))
    assert Bernoulli(stochastic=False).target(image, draws()) is image


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.0])
def test_gaussian_is_torch_distributions(sigma):
    output, image = numbers(3, 2, 4, 4), numbers(3, 2, 4, 4, seed=1)
    expected = Normal(output, sigma).log_prob(image).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(sigma).log_prob(output, image), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.005, 0.1, 1.0])
def test_bytes_have_the_share_of_the_normal_distribution_in_their_cells(sigma):
    image = bytes_of(2, 3, 4, 4).double()
    output = image + numbers(2, 3, 4, 4).double() * 2 * sigma
    normal = Normal(output, sigma)
    upper = torch.where(image > 0.999, 1.0, normal.cdf(image + 1 / 255))
    lower = torch.where(image < -0.999, 0.0, normal.cdf(image - 1 / 255))
    expected = (upper - lower).log().flatten(1).sum(1)
    for kind in (torch.float64, torch.float32):
        found = Gaussian(sigma).log_mass(output.to(kind), image.to(kind)).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mean", [-1.0, 0.3, 40.0])
def test_the_normal_shares_of_all_bytes_sum_to_one_and_are_finite_far_away(mean):
    values = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    found = Gaussian(0.05).log_mass(torch.full_like(values, mean), values).detach()
    assert found.isfinite().all() and float(found.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_learned_deviation_becomes_that_of_the_errors_and_stays_above_the_least():
    for errors, found in ((0.2, 0.2), (0.0, 1 / 255)):
        likelihood = Gaussian()
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.03)
        image = numbers(64, 1, 8, 8) * errors
        for _ in range(200):
            optimizer.zero_grad()
            (-likelihood.log_prob(torch.zeros_like(image), image).mean() / 64).backward()
            optimizer.step()
        assert float(likelihood.log_deviation.detach().exp()) == pytest.approx(found, rel=0.05)


def test_a_fixed_deviation_of_one_is_half_the_squared_error():
    likelihood = Gaussian(1.0, learned=False)
    output, image = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4, seed=1)
    expected = ((output - image) ** 2).flatten(1).sum(1) / 2 + 48 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(-likelihood.log_prob(output, image), expected)
    assert not [p for p in likelihood.parameters() if p.requires_grad]


def test_discretised_logistic_is_the_difference_of_two_cumulative_distributions():
    image = bytes_of(2, 3, 4, 4).double()
    mean, relative = numbers(2, 3, 4, 4).double() * 0.5, numbers(2, 3, 4, 4, seed=1).double() * 0.5
    scale = 0.3 * relative.exp()
    upper = torch.where(image > 0.999, 1.0, ((image + 1 / 255 - mean) / scale).sigmoid())
    lower = torch.where(image < -0.999, 0.0, ((image - 1 / 255 - mean) / scale).sigmoid())
    found = DiscretizedLogistic(0.3).double().log_prob(torch.cat([mean, relative], 1), image)
    torch.testing.assert_close(found, (upper - lower).log().flatten(1).sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [-1.0, 0.3, 1.5])
def test_the_probabilities_of_all_bytes_sum_to_one(mean):
    values = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    output = torch.tensor([mean, -1.0]).view(1, 2, 1, 1).expand(256, 2, 1, 1)
    total = DiscretizedLogistic().log_prob(output, values).detach().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_gradients_of_the_discretised_logistic_are_finite_far_from_the_mean():
    likelihood = DiscretizedLogistic()
    output = torch.tensor([[30.0, -20.0], [-30.0, 20.0], [0.0, 0.0]]).view(3, 2, 1, 1).requires_grad_()
    for value in (-1.0, 0.0 + 1 / 255, 1.0):
        found = likelihood.log_prob(output, torch.full((3, 1, 1, 1), value))
        (slope,) = torch.autograd.grad(found.sum(), output)
        assert found.isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), DiscretizedLogistic()])
def test_means_are_images_and_gradients_reach_outputs_and_parameters(likelihood):
    output = (numbers(2, likelihood.parameters_per_channel, 4, 4) * 3).requires_grad_()
    image = bytes_of(2, 1, 4, 4)
    mean = likelihood.mean(output)
    assert mean.shape == (2, 1, 4, 4) and mean.abs().max() <= 1
    likelihood.log_prob(output, likelihood.target(image, draws(2, 0, 2))).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in (output, *likelihood.parameters()))
    likelihood.check(image)


@pytest.mark.parametrize(
    ("likelihood", "image", "said"),
    [
        (Gaussian(), bytes_of(2, 3, 4, 4) * 127.5 + 127.5, r"images in \[-1, 1\], got torch.float32 from 0 to 255"),
        (Gaussian(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"images in \[-1, 1\], got torch.uint8"),
        (Bernoulli(), bytes_of(2, 3, 4, 4), "the data has 3 channels: use Gaussian or DiscretizedLogistic"),
        (Bernoulli(stochastic=False), bytes_of(8, 1, 8, 8), "of the pixels are grey: set likelihood.stochastic"),
        (DiscretizedLogistic(), bytes_of(2, 3, 4, 4) * 0.99, "lie between two of the 256 values: use Gaussian"),
    ],
)
def test_data_that_does_not_suit_a_likelihood_is_an_error_that_says_what_to_do(likelihood, image, said):
    with pytest.raises(ValueError, match=said):
        likelihood.check(image)


def test_black_and_white_pictures_need_no_drawing():
    Bernoulli(stochastic=False).check(bytes_of(2, 1, 4, 4).sign())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gaussian(0.001), "likelihood.sigma must be above likelihood.least"),
        (lambda: Gaussian(0.0), "got 0.0, "),
        (lambda: DiscretizedLogistic(-1.0), "likelihood.scale must be above 0, got -1.0"),
    ],
)
def test_impossible_deviations_are_errors(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_passports_say_what_has_a_probability():
    assert Gaussian().facts() == {"likelihood": "Gaussian", "of": "bytes"}
    assert DiscretizedLogistic().facts()["of"] == "bytes"
    assert Bernoulli().facts()["of"] == "bits" and Bernoulli().facts()["binarisation"].startswith("drawn")
    assert Bernoulli(stochastic=False).facts()["binarisation"].startswith("none")
