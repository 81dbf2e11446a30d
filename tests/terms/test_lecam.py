"""LeCam regularisation of a linear discriminator, turn by turn."""

import pytest
import torch

from lightning_avatars.terms.lecam import LeCam
from tests.terms.test_gradients import Line, turn


def chunks(line, term, *rows):
    """The same turn, cut into chunks."""
    steps = []
    for row in rows:
        step = turn(line, term)
        real, fake = step.real[row], step.fake[row]
        step.real = real
        step.__dict__["fake"] = fake
        steps.append(step)
    return steps


def logits(step):
    return [(x * step.module.discriminator.w[0]).flatten(1).sum(1).detach() for x in (step.real, step.fake)]


def test_the_first_turn_pulls_to_zero_and_the_second_to_the_first_ones_means():
    line, term = Line(), LeCam(decay=0.9)
    step = turn(line, term)
    real, made = logits(step)
    torch.testing.assert_close(term(step), real.square().mean() + made.square().mean())
    term.after_step(step)
    torch.testing.assert_close(term.means[:2] / term.means[2], torch.stack([real.mean(), made.mean()]))
    step = turn(line, term, seed=1)
    again, other = logits(step)
    expected = (again - made.mean()).square().mean() + (other - real.mean()).square().mean()
    torch.testing.assert_close(term(step), expected)


def test_means_are_those_of_the_turns_before_with_weights_that_fade():
    term = LeCam(decay=0.5)
    values = [1.0, 2.0, 4.0]
    for value in values:
        term.tally.copy_(torch.tensor([[3 * value, 3.0], [-5 * value, 5.0]]))
        term.after_step(None)
    mean = (0.25 * 1 + 0.5 * 2 + 4) / 1.75
    torch.testing.assert_close(term.means[:2] / term.means[2], torch.tensor([mean, -mean]))
    assert term.tally.abs().sum() == 0


def test_chunks_of_a_turn_add_up():
    line, whole, parts = Line(), LeCam(), LeCam()
    step = turn(line, whole)
    for term in (whole, parts):
        term.means.copy_(torch.tensor([0.3, -0.2, 0.5]))
    pieces = chunks(line, parts, slice(0, 4), slice(4, 6))
    losses = [parts(piece) for piece in pieces]
    torch.testing.assert_close(whole(step), losses[0] * 4 / 6 + losses[1] * 2 / 6)
    whole.after_step(step)
    parts.after_step(pieces[-1])
    torch.testing.assert_close(whole.means, parts.means)


def test_the_gradient_leaves_the_means_alone():
    line, term = Line(), LeCam()
    step = turn(line, term)
    term(step).backward()
    assert line.w.grad.abs().sum() > 0 and not term.means.requires_grad and not term.tally.requires_grad


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_is_a_share(decay):
    with pytest.raises(ValueError, match="decay is a share"):
        LeCam(decay=decay)
