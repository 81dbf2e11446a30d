"""Bounds of likelihoods against a model whose likelihood is known, and codebooks whose use is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal

from lightning_avatars.metrics.likelihood import (
    CodebookUse,
    bits_per_dimension,
    dimensions,
    evidence_lower_bound,
    importance_weighted_bound,
    perplexity,
    share_used,
)

SIGMA = 0.5


class LinearGaussian:
    """z ~ N(0, 1), x = W z + noise: everything is known. Its posterior can be made wrong by a shift and a scale."""

    def __init__(self, shift: float = 0.0, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(5, 2, generator=generator).double()
        precision = torch.eye(2) + self.weights.T @ self.weights / SIGMA**2
        self.exact = torch.linalg.inv(precision)
        self.shift, self.covariance = shift, self.exact * scale
        self.x = self.marginal.sample((10,))

    @property
    def marginal(self) -> MultivariateNormal:
        covariance = self.weights @ self.weights.T + SIGMA**2 * torch.eye(5)
        return MultivariateNormal(torch.zeros(5).double(), covariance)

    def posterior(self, covariance: torch.Tensor, shift: float = 0.0) -> MultivariateNormal:
        mean = self.x @ self.weights @ self.exact / SIGMA**2 + shift
        return MultivariateNormal(mean, covariance)

    def log_weights(self, samples: int) -> torch.Tensor:
        q = self.posterior(self.covariance, self.shift)
        z = q.sample((samples,))
        prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
        likelihood = MultivariateNormal(z @ self.weights.T, SIGMA**2 * torch.eye(5).double())
        return (likelihood.log_prob(self.x) + prior.log_prob(z) - q.log_prob(z)).T


def test_with_the_true_posterior_every_bound_is_the_likelihood():
    model = LinearGaussian()
    weights, expected = model.log_weights(7), model.marginal.log_prob(model.x)
    for bound in (evidence_lower_bound(weights), importance_weighted_bound(weights)):
        torch.testing.assert_close(bound, expected, rtol=1e-9, atol=1e-9)


def test_the_bounds_order_and_lie_below_the_likelihood_in_expectation():
    torch.manual_seed(0)
    model = LinearGaussian(shift=0.3, scale=0.7)
    truth = model.marginal.log_prob(model.x)
    weights = model.log_weights(64 * 400)
    gap = torch.distributions.kl_divergence(
        model.posterior(model.covariance, model.shift), model.posterior(model.exact)
    )
    torch.testing.assert_close(evidence_lower_bound(weights), truth - gap, rtol=0, atol=0.05)

    means = []
    for samples in (1, 4, 16, 64):
        bounds = importance_weighted_bound(weights.reshape(-1, samples)).view(10, -1).mean(1)  # many for each image
        means.append(bounds)
        assert (bounds < truth + 0.02).all()
    for fewer, more in pairwise(means):
        assert (more > fewer).all()
    assert (evidence_lower_bound(weights) <= means[1]).all()
    torch.testing.assert_close(means[0], evidence_lower_bound(weights))
    assert (truth - means[-1]).abs().mean() < 0.25 * gap.mean()


def test_the_importance_weighted_bound_is_the_logarithm_of_the_mean_weight():
    weights = torch.tensor([[0.0, math.log(3.0)], [-2000.0, -2000.0 + math.log(3.0)]])
    torch.testing.assert_close(
        importance_weighted_bound(weights), torch.tensor([math.log(2), -2000 + math.log(2)]).double()
    )
    torch.testing.assert_close(evidence_lower_bound(weights)[0], torch.tensor(math.log(3) / 2).double())
    with pytest.raises(ValueError, match=r"N x samples, with at least one sample; got \(4,\)"):
        importance_weighted_bound(torch.zeros(4))
    with pytest.raises(ValueError, match="at least one sample"):
        evidence_lower_bound(torch.zeros(4, 0))


def test_an_empty_border_is_no_dimension():
    assert dimensions(1, 32, 32, 2) == 784
    assert dimensions(3, 64, 48) == 3 * 64 * 48
    with pytest.raises(ValueError, match="a border of 4 pixels leaves nothing of an image of 8 x 8"):
        dimensions(3, 8, 8, 4)


def test_evenly_likely_bytes_take_eight_bits_each():
    nats = torch.tensor([-784 * math.log(256)])
    assert float(bits_per_dimension(nats, dimensions(1, 32, 32, 2))) == pytest.approx(8)


def test_codebook_use_is_that_of_all_batches():
    counts = torch.tensor([[1, 0, 3, 0], [0, 0, 1, 3]])
    metric = CodebookUse(4)
    for part in counts:
        metric.update(part)
    expected = Categorical(counts.sum(0).double()).entropy().exp()
    found, used = metric.compute()
    torch.testing.assert_close(found, expected)
    assert float(used) == 0.75 == float(share_used(counts.sum(0)))
    assert float(perplexity(torch.ones(16))) == pytest.approx(16)
    assert float(perplexity(torch.tensor([5, 0]))) == pytest.approx(1)
