"""Gradient penalties of linear and quadratic discriminators against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lightning_avatars.families.adversarial import LatentStep
from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.clipping import WeightClip
from lightning_avatars.terms.gradients import R1, R2, GradientPenalty, squared_gradient
from tests.conf.training import game

SHAPE = (3, 8, 8)


class Line(Discriminator):
    """One linear map per scale."""

    def __init__(self, scales: int = 1) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(scales, *SHAPE, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return Verdict([(x * w).flatten(1).sum(1) for w in self.w])


class Patches(Line):
    """A map of logits, N 1 H W, each a weighted pixel sum."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return Verdict([(x * self.w[0]).sum(1, keepdim=True)])


class Convolved(Discriminator):
    """A map of logits, by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return Verdict([self.layer(x)])


class Bowl(Line):
    """``w x² / 2`` summed over pixels, whose gradient is ``w x``."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return Verdict([(x.square() * self.w[0]).flatten(1).sum(1) / 2])


def turn(discriminator: Discriminator, term: nn.Module, count: int = 6, seed: int = 0) -> LatentStep:
    """A discriminator's turn, ready for one term."""
    image = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    batch = {"image": image, "labels": torch.zeros(count, 0)}
    draws = Draws(0, 0, count, 0, count, torch.device("cpu"))
    module = game(discriminator=discriminator)
    return LatentStep(module, batch, draws, "discriminator", frozenset(term.differentiates))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("term", [R1(), R2()])
@pytest.mark.parametrize("network", [Line, Patches])
def test_penalty_of_a_linear_discriminator_is_half_its_squared_norm(term, network, seed):
    line = network()
    torch.testing.assert_close(term(turn(line, term, seed=seed)), line.w.square().sum() / 2)


@pytest.mark.parametrize("term", [R1(), R2()])
def test_its_gradient_is_the_weight_itself(term):
    line = Line()
    term(turn(line, term)).backward()
    torch.testing.assert_close(line.w.grad, line.w.detach())


@pytest.mark.parametrize("term", [R1(), R2()])
def test_scales_are_summed_before_the_norm(term):
    line = Line(scales=3)
    loss = term(turn(line, term))
    torch.testing.assert_close(loss, line.w.sum(0).square().sum() / 2)
    loss.backward()
    torch.testing.assert_close(line.w.grad, line.w.detach().sum(0).expand_as(line.w))


def test_r1_looks_at_real_images_and_r2_at_made_ones():
    bowl = Bowl()
    for term, name in ((R1(), "real"), (R2(), "fake")):
        step = turn(bowl, term)
        x, w = getattr(step, name), bowl.w[0]
        loss = term(step)
        torch.testing.assert_close(loss, (w * x).square().flatten(1).sum(1).mean() / 2)
        (slope,) = torch.autograd.grad(loss, bowl.w)  # d/dw of (w x)² / 2 is w x²
        torch.testing.assert_close(slope[0], w.detach() * x.detach().square().mean(0))


def test_penalties_leave_the_generator_alone():
    for term in (R1(), R2(), GradientPenalty()):
        step = turn(Bowl(), term)
        term(step).backward()
        assert all(p.grad is None for p in step.module.generator.parameters())


def test_only_what_a_term_names_carries_gradients():
    assert turn(Line(), R1()).real.requires_grad and not turn(Line(), R1()).fake.requires_grad
    assert turn(Line(), R2()).fake.requires_grad and not turn(Line(), R2()).real.requires_grad
    step = turn(Line(), GradientPenalty())
    assert not step.real.requires_grad and not step.fake.requires_grad


@pytest.mark.parametrize("target", [0.0, 1.0, 20.0])
def test_gradient_penalty_of_a_linear_critic(target):
    line, term = Line(), GradientPenalty(target=target)
    loss, norm = term(turn(line, term)), line.w.detach().norm()
    torch.testing.assert_close(loss, (line.w.norm() - target).square())
    loss.backward()  # 2 (|w| - target) w / |w|
    torch.testing.assert_close(line.w.grad, 2 * (norm - target) * line.w.detach() / norm)
    assert term.weight == 10


def test_gradient_penalty_is_taken_between_real_and_made_images():
    bowl, term = Bowl(), GradientPenalty(target=0.5)
    step = turn(bowl, term)
    t = step.draws.uniform("gradient_penalty", 1, 1, 1)
    x = (1 - t) * step.real + t * step.fake
    norm = (bowl.w[0] * x).flatten(1).norm(dim=1)
    torch.testing.assert_close(term(step), (norm - 0.5).square().mean())


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    """A critic whose last layer starts at zero must not turn into NaN."""
    line, term = Line(), GradientPenalty()
    nn.init.zeros_(line.w)
    loss = term(turn(line, term))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(1.0))
    assert line.w.grad.isfinite().all()


def test_a_penalty_is_a_mean_over_images():
    bowl, term = Bowl(), R1()
    step = turn(bowl, term)
    half = [turn(bowl, term), turn(bowl, term)]
    for part, rows in zip(half, (slice(0, 3), slice(3, 6)), strict=True):
        part.real = step.real.detach()[rows].requires_grad_()
    torch.testing.assert_close(term(step), (term(half[0]) + term(half[1])) / 2)


def test_squared_gradient_is_per_image_and_in_float32():
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.bfloat16, requires_grad=True)
    found = squared_gradient([x.square().sum(1) / 2], x)
    assert found.dtype == torch.float32 and found.tolist() == [5.0, 25.0]


class Faint(Line):
    """A linear map whose parts are within float16's range and whose gradient in between is not.

    Args:
        size: Largest of the numbers that the second layer multiplies by.
    """

    def __init__(self, size: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(16, 192, generator=generator) / 192**0.5 / size)
        self.last = nn.Parameter(torch.randn(1, 16, generator=generator) * size)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        return Verdict([linear(linear(x.flatten(1), self.first), self.last)[:, 0]])


PARTS = [(R1(), 1e-8), (R2(), 1e-8), (GradientPenalty(), 1e-8), (R1(), 1e5), (GradientPenalty(), 1e5)]


@pytest.mark.parametrize(("term", "size"), PARTS, ids=lambda value: type(value).__name__)
def test_in_float16_no_gradient_vanishes_or_overflows_on_its_way(term, size):
    network = Faint(size)
    step = turn(network, term)
    with torch.autocast("cpu", torch.float16):
        x = step.real.detach().requires_grad_()
        naive = squared_gradient(network(x).logits, x)
        loss = term(step)
    assert not (naive.isfinite() & (naive > 0)).any(), "without care it is lost"
    norm = (network.last @ network.first).detach().norm()
    expected = (norm - 1).square() if isinstance(term, GradientPenalty) else norm.square() / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (network.first, network.last))


def test_bfloat16_has_room_for_gradients_and_is_kept():
    network, term = Faint(1e-8), R1()
    step = turn(network, term)
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(step)
    norm = (network.last @ network.first).detach().norm()
    assert loss != norm.square() / 2
    torch.testing.assert_close(loss, norm.square() / 2, rtol=0.02, atol=0)


def test_what_ran_in_float32_is_differentiated_in_float32():
    """As the last layer of a network does under autocast, whose reach a backward pass is within otherwise."""
    line = nn.Parameter(torch.full((1, 64), 1e-9))
    x = torch.ones(2, 64, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        with torch.autocast("cpu", enabled=False):
            logits = linear(x, line)
        found = squared_gradient([logits], x)
    torch.testing.assert_close(found, torch.full((2,), 64e-18))


def test_a_gradient_penalty_meets_no_batch_norm():
    with pytest.raises(ValueError, match=r"discriminator_terms.penalty: a gradient penalty can't meet batch norm"):
        game(normalized=True, discriminator_terms={"penalty": GradientPenalty()})
    game(normalized=True, discriminator_terms={"penalty": R1()})


@pytest.mark.parametrize("term", [R1, R2, GradientPenalty, WeightClip])
def test_what_holds_the_discriminator_is_no_term_of_the_generator(term):
    with pytest.raises(ValueError, match=r"generator_terms.held: it is a term of the discriminator: put it into disc"):
        game(generator_terms={"held": term()})


def kinds_of(node: object) -> set[str]:
    """Names of all nodes of a graph."""
    names, waiting = set(), [node]
    while waiting:
        names.add(type(found := waiting.pop()).__name__)
        waiting += [above for above, _ in found.next_functions if above is not None]
    return names


@pytest.mark.parametrize(("term", "quick"), [(R1(), True), (nn.Module(), False)])
def test_only_what_is_differentiated_twice_has_convolutions_made_for_it(term, quick):
    term.differentiates = getattr(term, "differentiates", ())
    verdict = turn(Convolved(), term).real_verdict
    names = kinds_of(verdict.logits[0].grad_fn)
    assert ("ConvolutionBackward" in names, "ConvolutionBackward0" in names) == (quick, not quick)
