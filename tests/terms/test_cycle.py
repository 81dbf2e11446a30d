"""Cycle and identity losses: their values and gradients."""

from types import SimpleNamespace

import torch

from lightning_avatars.terms.cycle import Cycle, Identity


def test_they_are_mean_absolute_differences_from_the_real_images():
    real = torch.zeros(2, 3, 4, 4)
    cycled, identity = torch.full_like(real, 0.5, requires_grad=True), torch.full_like(real, -2.0, requires_grad=True)
    step = SimpleNamespace(real=real, cycled=cycled, identity=identity)
    assert Cycle()(step).item() == 0.5 and Identity()(step).item() == 2
    (Cycle()(step) + Identity()(step)).backward()
    torch.testing.assert_close(cycled.grad, torch.full_like(real, 1 / 96))
    torch.testing.assert_close(identity.grad, torch.full_like(real, -1 / 96))
