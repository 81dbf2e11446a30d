"""Every objective against its closed form."""

import math

import pytest
import torch

from lightning_avatars.objectives.adversarial import (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
)

ALL = [Minimax, NonSaturating, LeastSquares, Wasserstein, Hinge, Relativistic]
REAL, FAKE = torch.tensor([2.0, -0.5, 0.0]), torch.tensor([-1.0, 0.5, 3.0])


def slopes(loss, *logits):
    return torch.autograd.grad(loss, logits)


@pytest.mark.parametrize("objective", [Minimax(), NonSaturating()])
def test_discriminator_is_binary_cross_entropy(objective):
    d_real, d_fake = REAL.sigmoid(), FAKE.sigmoid()
    expected = -d_real.log().mean() - (1 - d_fake).log().mean()
    assert torch.allclose(objective.discriminator(REAL, FAKE), expected)


def test_value_of_the_game_at_the_optimum():
    undecided = torch.zeros(5)  # D = 1/2 everywhere (Goodfellow et al. 2014, Theorem 1)
    assert -Minimax().discriminator(undecided, undecided).item() == pytest.approx(-2 * math.log(2))
    assert Minimax().generator(undecided).item() == pytest.approx(-math.log(2))
    assert NonSaturating().generator(undecided).item() == pytest.approx(math.log(2))
    assert Relativistic().discriminator(undecided, undecided).item() == pytest.approx(math.log(2))


def test_minimax_generator_is_zero_sum_and_saturates():
    assert torch.allclose(Minimax().generator(FAKE), (1 - FAKE.sigmoid()).log().mean())
    rejected = torch.full((1,), -8.0, requires_grad=True)
    (weak,) = slopes(Minimax().generator(rejected), rejected)
    (strong,) = slopes(NonSaturating().generator(rejected), rejected)
    assert abs(weak.item()) < 1e-3 < 0.99 < abs(strong.item())


def test_non_saturating_generator():
    assert torch.allclose(NonSaturating().generator(FAKE), -FAKE.sigmoid().log().mean())


def test_least_squares():
    objective = LeastSquares()
    assert objective.discriminator(REAL, FAKE).item() == pytest.approx(((1 + 2.25 + 1) + (1 + 0.25 + 9)) / 6)
    assert objective.generator(FAKE).item() == pytest.approx((4 + 0.25 + 4) / 6)
    assert objective.discriminator(torch.ones(3), torch.zeros(3)) == 0
    assert objective.generator(torch.ones(3)) == 0


def test_wasserstein():
    assert Wasserstein().discriminator(REAL, FAKE).item() == pytest.approx(2.5 / 3 - 0.5)
    assert Wasserstein().generator(FAKE).item() == pytest.approx(-2.5 / 3)


def test_hinge():
    assert Hinge().discriminator(REAL, FAKE).item() == pytest.approx((0 + 1.5 + 1) / 3 + (0 + 1.5 + 4) / 3)
    assert Hinge().generator(FAKE).item() == pytest.approx(-2.5 / 3)
    real, fake = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    assert slopes(Hinge().discriminator(real, fake), real, fake) == (0, 0)  # beyond the margins


def test_relativistic_compares_pairs():
    objective = Relativistic()
    expected = -(REAL - FAKE).sigmoid().log().mean()
    assert torch.allclose(objective.discriminator(REAL, FAKE), expected)
    assert torch.allclose(objective.generator(FAKE, REAL), objective.discriminator(FAKE, REAL))
    shifted = objective.discriminator(REAL + 7, FAKE + 7)
    assert torch.allclose(shifted, expected)
    with pytest.raises(ValueError, match="logits of real images too"):
        objective.generator(FAKE)


@pytest.mark.parametrize("kind", ALL)
def test_players_pull_in_opposite_directions(kind):
    objective = kind()
    real, fake = torch.full((4,), 0.3, requires_grad=True), torch.full((4,), 0.2, requires_grad=True)
    on_real, on_fake = slopes(objective.discriminator(real, fake), real, fake)
    (pull,) = slopes(objective.generator(fake, real if objective.relativistic else None), fake)
    assert (on_real < 0).all() and (on_fake > 0).all() and (pull < 0).all()


@pytest.mark.parametrize("kind", ALL)
def test_losses_are_means_over_logits_of_any_shape(kind):
    objective = kind()
    real, fake = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    halves = [objective.discriminator(r, f) for r, f in zip(real.split(2), fake.split(2), strict=True)]
    assert torch.allclose(sum(halves) / 2, objective.discriminator(real, fake), atol=1e-6)
    assert objective.generator(fake, real).shape == ()


@pytest.mark.parametrize("kind", ALL)
def test_extreme_logits_stay_finite(kind):
    objective = kind()
    big = torch.tensor([1e4, -1e4])
    assert objective.discriminator(big, -big).isfinite() and objective.generator(big, -big).isfinite()
