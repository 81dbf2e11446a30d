"""Drift against its closed form."""

import torch

from lightning_avatars.terms.drift import Drift
from tests.terms.test_gradients import Line, turn


def test_drift_is_the_mean_square_of_real_logits_and_scales_are_summed():
    line, term = Line(scales=2), Drift()
    step = turn(line, term)
    logits = torch.stack([(step.real * w).flatten(1).sum(1) for w in line.w])
    loss = term(step)
    torch.testing.assert_close(loss, logits.square().mean(1).sum())
    loss.backward()  # d/dw of mean (w x)^2 is 2 mean (w x) x
    slope = 2 * torch.einsum("sn,nchw->schw", logits.detach(), step.real) / len(step.real)
    torch.testing.assert_close(line.w.grad, slope)
    assert term.weight == 0.001 and term.differentiates == ()
