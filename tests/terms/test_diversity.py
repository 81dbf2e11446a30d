"""Mode seeking of a linear generator against its closed form."""

import pytest
import torch
from torch import nn

from lightning_avatars.families.adversarial import LatentStep
from lightning_avatars.networks.base import Generator
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.diversity import ModeSeeking
from tests.conf.training import game


class Scaled(Generator):
    """Latent vectors of 192 entries, times a number, as images."""

    def __init__(self, scale: float) -> None:
        super().__init__(192)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, z, labels=None):
        return (self.scale * z).view(-1, 3, 8, 8)


def turn(scale, count=6, start=0, stop=6):
    batch = {"image": torch.zeros(stop - start, 3, 8, 8), "labels": torch.zeros(stop - start, 0)}
    draws = Draws(0, 0, count, start, stop, torch.device("cpu"))
    return LatentStep(game(generator=Scaled(scale)), batch, draws, "generator")


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_of_a_linear_generator_it_is_the_inverse_of_the_slope(scale):
    step, term = turn(scale), ModeSeeking()
    loss = term(step)
    torch.testing.assert_close(loss, torch.tensor(1 / (scale + 1e-5)))
    loss.backward()
    torch.testing.assert_close(step.module.generator.scale.grad, torch.tensor(-((scale + 1e-5) ** -2)))


def test_a_generator_that_has_collapsed_gives_a_finite_loss():
    step, term = turn(0.0), ModeSeeking(floor=0.01)
    loss = term(step)
    loss.backward()
    assert loss.item() == pytest.approx(100) and step.module.generator.scale.grad.isfinite()
    with pytest.raises(ValueError, match="floor must be above 0"):
        ModeSeeking(floor=0)


def test_codes_that_came_up_twice_count_nothing():
    step, term = turn(2.0), ModeSeeking()
    step.__dict__["latent"] = step.draws.normal("mode_seeking", 192)
    loss = term(step)
    loss.backward()
    assert loss == 0 and step.module.generator.scale.grad == 0


def test_chunks_of_a_batch_add_up():
    class Bent(Scaled):
        def forward(self, z, labels=None):
            return super().forward(z.sin() * z)

    steps = [turn(1.0), turn(1.0, 6, 0, 4), turn(1.0, 6, 4, 6)]
    for step in steps:
        step.module.generator = Bent(1.0)
    whole, first, second = (ModeSeeking()(step) for step in steps)
    torch.testing.assert_close(whole, first * 4 / 6 + second * 2 / 6)
    assert first != second
