"""The running average: closed forms of its half-life and ramp, and what it never does."""

import copy

import pytest
import torch
from torch import nn

from lightning_avatars.ema import Average
from lightning_avatars.schedules import Linear
from tests.conf.training import game

NO_RAMP = 1e9  # the half-life is at most this many times the images seen


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def moved(average: Average, target: nn.Module, start: nn.Module) -> list[float]:
    """How far each parameter has gone from its start to its target, 0 … 1."""
    triples = zip(average.average.parameters(), target.parameters(), start.parameters(), strict=True)
    return [((a - s) / (t - s)).mean().item() for a, t, s in triples]


def apart() -> tuple[nn.Module, nn.Module]:
    start, target = network(), network()
    with torch.no_grad():
        for p in target.parameters():
            p.add_(1)
    return start, target


@pytest.mark.parametrize("half_life", [0, -5])
def test_a_half_life_is_above_0(half_life):
    for make in (lambda: Average(network(), half_life), lambda: game(average_half_life=half_life)):
        with pytest.raises(ValueError, match=f"half_life is in images and must be above 0, got {half_life}"):
            make()
    assert game(average_half_life=None).average is None


@pytest.mark.parametrize(("batch", "updates", "half_life"), [(8, 1, 8), (8, 3, 8), (16, 5, 1000), (1, 7, 3)])
def test_half_life_is_in_images(batch, updates, half_life):
    start, target = apart()
    average = Average(start, half_life, ramp=NO_RAMP)
    for n in range(1, updates + 1):
        average.update(target, batch, n * batch)
    assert moved(average, target, start) == pytest.approx([1 - 0.5 ** (batch * updates / half_life)] * 4, rel=1e-4)


def test_a_half_life_may_be_a_schedule_that_begins_with_the_network_itself():
    start, target = apart()
    average = Average(start, Linear(0.0, 100.0, 1000), ramp=NO_RAMP)
    average.update(target, 8, 0)
    assert moved(average, target, start) == [1.0] * 4
    average.update(start, 8, 80)  # half-life 8: half the way back
    assert moved(average, target, start) == pytest.approx([0.5] * 4)


def test_the_ramp_shortens_the_half_life_of_a_young_run():
    start, target = apart()
    average = Average(start, half_life=10_000, ramp=0.05)
    average.update(target, 8, 160)  # 5 % of 160 images are 8: half the way
    assert moved(average, target, start) == pytest.approx([0.5] * 4)
    average.update(target, 8, 80)  # half-life 4: a quarter of the rest remains
    assert moved(average, target, start) == pytest.approx([1 - 0.5 / 4] * 4)
    late = Average(start, half_life=100, ramp=0.05)
    late.update(target, 50, 10_000_000)
    assert moved(late, target, start) == pytest.approx([1 - 0.5**0.5] * 4)


def test_before_any_image_the_average_is_a_copy():
    start, target = apart()
    average = Average(start, half_life=100)
    average.update(target, 8, 0)
    assert all(torch.equal(a, t) for a, t in zip(average.average.parameters(), target.parameters(), strict=True))


def test_buffers_are_copied_not_averaged():
    source = network()
    average = Average(source, half_life=1e6)
    source(torch.randn(16, 3))
    average.update(source, 1, 1)
    mine, theirs = dict(average.average.named_buffers()), dict(source.named_buffers())
    assert mine.keys() == theirs.keys() and mine["1.num_batches_tracked"] == 1
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(mine[name] is not theirs[name] for name in mine)


def test_a_network_without_buffers_is_averaged_too():
    start, target = nn.Linear(2, 2), nn.Linear(2, 2)
    average = Average(start, 8, ramp=NO_RAMP)
    average.update(target, 8, 8)
    torch.testing.assert_close(average.average.weight, (start.weight + target.weight) / 2)


def test_the_source_is_left_alone():
    start, target = apart()
    before = copy.deepcopy(target.state_dict())
    average = Average(start, half_life=8)
    average.update(target, 8, 1000)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert all(p.requires_grad and p.grad_fn is None for p in (*target.parameters(), *start.parameters()))


def test_it_is_frozen_and_never_trains():
    source = network().train()
    average = Average(source, half_life=8)
    parent = nn.ModuleList([average, source]).train()
    assert parent.training and source.training
    assert not any(m.training for m in average.average.modules())
    assert not any(p.requires_grad for p in average.parameters())
    first, second = (average.average(torch.ones(2, 3)) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


def test_it_is_in_the_state_dict_and_loads():
    start, target = apart()
    average = Average(start, half_life=8)
    average.update(target, 8, 1000)
    assert average.state_dict().keys() == {f"average.{name}" for name in start.state_dict()}
    other = Average(network(), half_life=8)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), average.parameters(), strict=True))


@pytest.mark.parametrize("half_life", [0, -5])
def test_a_half_life_must_be_positive(half_life):
    with pytest.raises(ValueError, match=f"above 0, got {half_life}"):
        Average(network(), half_life)


def test_a_buffer_that_was_put_in_place_of_another_is_followed():
    start, target = apart()
    average = Average(start, half_life=100)
    average.update(target, 8, 80)
    target[1].running_mean = torch.full((4,), 7.0)
    target[0].weight = nn.Parameter(torch.full((4, 3), 9.0))
    average.update(target, 8, 0)  # all the way
    assert average.average[1].running_mean.tolist() == [7.0] * 4 and (average.average[0].weight == 9).all()


def test_weights_that_two_layers_share_move_once():
    first = nn.Linear(3, 3, bias=False)
    start = nn.Sequential(first, nn.Linear(3, 3, bias=False))
    start[1].weight = first.weight
    target = copy.deepcopy(start)
    with torch.no_grad():
        target[0].weight.add_(1)
    average = Average(start, half_life=8, ramp=NO_RAMP)
    average.update(target, 8, 8)
    assert moved(average, target, start) == pytest.approx([0.5])


def test_another_network_can_be_followed():
    start, target = apart()
    average = Average(start, half_life=100)
    average.update(start, 8, 0)
    average.update(target, 8, 0)
    assert all(torch.equal(a, t) for a, t in zip(average.average.parameters(), target.parameters(), strict=True))
