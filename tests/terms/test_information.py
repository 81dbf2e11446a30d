"""What images tell of codes, against closed forms, and who learns from it."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.latents import Codes, Gaussian
from lightning_avatars.networks.base import Verdict
from lightning_avatars.terms.information import Information, categorical_information, continuous_information


def step(prior, latent, head):
    return SimpleNamespace(
        module=SimpleNamespace(prior=prior), latent=latent, fake_verdict=Verdict([], heads={"code": head})
    )


def test_a_categorical_code_tells_nothing_to_a_guess_and_the_logarithm_of_its_values_to_certainty():
    code = torch.eye(10)
    assert categorical_information(torch.zeros(10, 10), code).item() == pytest.approx(0, abs=1e-6)
    assert categorical_information(100 * code, code).item() == pytest.approx(math.log(10))


def test_a_posterior_that_is_right_reaches_the_information_of_a_noisy_channel():
    """A binary symmetric channel: the bound is tight, log 2 - H(p)."""
    torch.manual_seed(0)
    p, code = 0.1, torch.randint(2, (400_000,))
    seen = code ^ (torch.rand(400_000) < p)
    logits = torch.tensor([[1 - p, p], [p, 1 - p]]).log()[seen]
    bound = categorical_information(logits, torch.eye(2)[code])
    assert bound.item() == pytest.approx(math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p), abs=3e-3)


def test_continuous_codes_tell_as_much_as_a_normal_density_does():
    torch.manual_seed(0)
    code, mean, spread = torch.rand(50, 3) * 2 - 1, torch.randn(50, 3), torch.rand(50, 3).log()
    density = torch.distributions.Normal(mean, spread.exp()).log_prob(code).sum(1).mean()
    torch.testing.assert_close(continuous_information(mean, spread, code), density + 3 * math.log(2))


def test_the_loss_is_the_negated_bound_with_continuous_codes_weighed():
    torch.manual_seed(0)
    prior = Codes(5, [4, 3], 2)
    z, head = prior.draw(6, 14, torch.Generator().manual_seed(0)), torch.randn(6, 11)
    (four, three), numbers = prior.split(z)
    expected = categorical_information(head[:, :4], four) + categorical_information(head[:, 4:7], three)
    for deviation, spread in ((None, head[:, 9:]), (0.5, torch.full((6, 2), math.log(0.5)))):
        loss = Information(continuous=0.3, deviation=deviation)(step(prior, z, head))
        torch.testing.assert_close(-loss, expected + 0.3 * continuous_information(head[:, 7:9], spread, numbers))
    only = Information(continuous=0)(step(Codes(11, [3]), z, head[:, :3]))
    torch.testing.assert_close(-only, categorical_information(head[:, :3], three * 0 + z[:, 11:]))


def test_codes_must_be_there():
    assert Information().heads(SimpleNamespace(prior=Codes(62, [10], 2))) == {"code": 14}
    with pytest.raises(ValueError, match="needs codes, but the prior is Gaussian"):
        Information().heads(SimpleNamespace(prior=Gaussian()))


@pytest.mark.parametrize(("continuous", "deviation"), [(-0.1, None), (0.1, 0.0)])
def test_factors_out_of_range_are_refused(continuous, deviation):
    with pytest.raises(ValueError, match=f"got {continuous} and {deviation}"):
        Information(continuous=continuous, deviation=deviation)
