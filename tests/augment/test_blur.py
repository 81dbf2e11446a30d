import pytest
import torch

from lightning_avatars.augment.blur import Blur
from lightning_avatars.schedules import Linear
from lightning_avatars.seeding import Draws
from tests.conf.training import game

DRAWS = Draws(0, 0, 2, 0, 2, torch.device("cpu"))


def test_a_point_becomes_a_gaussian():
    image = torch.zeros(2, 3, 31, 31, dtype=torch.float64)
    image[:, :, 15, 15] = 1
    at = torch.arange(31) - 15.0
    line = torch.exp(-at.square() / (2 * 2.5**2))
    expected = line.outer(line) / line.outer(line).sum()
    torch.testing.assert_close(Blur(2.5)(image, DRAWS, "")[0, 0], expected.double(), atol=1e-6, rtol=0)


def test_zero_changes_nothing_and_what_is_flat_stays_flat():
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(Blur(0.0)(image, DRAWS, ""), image)
    torch.testing.assert_close(Blur(10.0)(torch.full((1, 1, 8, 8), 0.7), DRAWS, ""), torch.full((1, 1, 8, 8), 0.7))


def test_it_is_twice_differentiable():
    blur = Blur(1.0)
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: blur(x, DRAWS, "").pow(3), x)


def test_a_schedule_takes_it_away():
    module = game(augment=Blur(), scheduled={"augment.sigma": Linear(10.0, 0.0, 200_000)})
    module.images_seen = 50_000
    module.apply_schedules()
    assert module.augment.sigma == 7.5


def test_a_negative_sigma_is_named():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Blur(-1.0)
