"""Distances from a target, pixel by pixel: their values and gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.terms.reconstruction import L1, L2


@pytest.mark.parametrize(
    ("term", "value", "slope"),
    [(L1, lambda gap: gap.abs(), torch.sign), (L2, torch.square, lambda gap: 2 * gap)],
    ids=["L1", "L2"],
)
def test_they_are_means_over_pixels_whose_gradient_pulls_towards_the_target(term, value, slope):
    torch.manual_seed(0)
    fake, target = (torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=grad) for grad in (True, False))
    gap = fake.detach() - target
    loss = term()(SimpleNamespace(fake=fake, target=target))
    torch.testing.assert_close(loss, value(gap).mean())
    loss.backward()
    torch.testing.assert_close(fake.grad, slope(gap) / 96)
    assert (gap > 0).any() and (gap < 0).any()
