"""Schedules against their closed forms."""

import math

import pytest

from lightning_avatars.schedules import Constant, Cosine, Growing, Linear, Steps, crossed, set_option, value_at


def test_constant():
    assert [Constant(0.3)(n) for n in (0, 1, 10**9)] == [0.3] * 3


@pytest.mark.parametrize("schedule", [Linear, Cosine])
@pytest.mark.parametrize(("start", "end"), [(2.0, -1.0), (0.0, 1.0)])
def test_ends_are_reached_and_kept(schedule, start, end):
    line = schedule(start, end, last=300, first=100)
    assert [line(n) for n in (0, 99, 100)] == [start] * 3
    assert [line(n) for n in (300, 301, 10**9)] == [end] * 3
    assert line(200) == pytest.approx((start + end) / 2)


def test_linear_is_a_straight_line():
    line = Linear(1.0, 3.0, last=400)
    assert [line(n) for n in (0, 100, 200, 300, 400)] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert [Linear(1.0, 3.0, last=10, first=6)(n) for n in range(5, 12)] == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


def test_cosine_is_half_a_cosine():
    curve = Cosine(5.0, 1.0, last=600)
    assert curve(200) == pytest.approx(1 + 4 * (1 + math.cos(math.pi / 3)) / 2) == pytest.approx(4.0)
    assert curve(400) == pytest.approx(2.0)
    slopes = [curve(n + 1) - curve(n) for n in (0, 299, 599)]
    assert slopes[1] == pytest.approx(-4 * math.pi / 2 / 600, rel=1e-3), "steepest in the middle"
    assert abs(slopes[0]) < 1e-4 and abs(slopes[2]) < 1e-4, "flat at the ends"


def test_a_weight_that_falls_to_zero_is_exactly_zero():
    """A term of weight zero is not evaluated, so almost zero would not do."""
    for schedule in (Linear, Cosine):
        assert all(schedule(start, 0.0, last=n)(n) == 0 for start in (0.1, 0.3, 7.7) for n in (3, 1000, 12_345_677))


@pytest.mark.parametrize("schedule", [Linear, Cosine])
@pytest.mark.parametrize("last", [50, 20])
def test_an_end_before_the_beginning_is_refused(schedule, last):
    with pytest.raises(ValueError, match=f"first=50 and last={last}"):
        schedule(0.0, 1.0, last=last, first=50)


def test_steps_jump_at_their_keys_in_any_order():
    steps = Steps({300: 0.1, 100: 1.0, 200: 0.5})
    assert [steps(n) for n in (100, 199, 200, 299, 300, 10**9)] == [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    assert steps(0) == 1.0, "the smallest key's value holds before it too"
    with pytest.raises(ValueError, match="at least one value"):
        Steps({})


def test_value_at_takes_numbers_and_schedules():
    assert value_at(0.25, 10**6) == 0.25
    assert value_at(Linear(0.0, 1.0, last=8), 2) == 0.25


def test_growing_keeps_a_level_then_fades_the_next_in():
    grow = Growing(kept=600, faded=400)
    seen = [0, 600, 700, 1000, 1600, 1800, 2000, 2600]
    assert [grow(n) for n in seen] == [0.0, 0.0, 0.25, 1.0, 1.0, 1.5, 2.0, 2.0]
    assert grow(10**6) == pytest.approx(999, abs=1), "networks stop at their own last level"
    assert [Growing(100, 50, first=2)(n) for n in (0, 100, 125, 150, 250, 300)] == [2.0, 2.0, 2.5, 3.0, 3.0, 4.0]
    assert [Growing(0, 4)(n) for n in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25], "never kept, it always rises"


@pytest.mark.parametrize("arguments", [{"kept": -1}, {"faded": 0}, {"first": -1}])
def test_growing_refuses_what_is_no_growth(arguments):
    with pytest.raises(ValueError, match="faded in over at least 1"):
        Growing(**arguments)


def test_a_multiple_counts_when_it_is_reached_and_not_again():
    assert [seen for seen in range(8, 49, 8) if crossed(20, seen - 8, seen)] == [24, 40]
    assert crossed(20, 0, 100) and not crossed(0, 0, 100) and not crossed(20, 20, 39)


def test_options_of_an_optimizer_are_set_by_name_and_unknown_ones_refused():
    group = {"params": [], "lr": 1.0, "betas": (0.9, 0.999)}
    for option, value in (("lr", 0.5), ("beta1", 0.25), ("beta2", 0.75)):
        set_option(group, option, value, f"generator.{option}")
    assert group == {"params": [], "lr": 0.5, "betas": (0.25, 0.75)}
    refused = r"optimizer_schedules names 'generator.momentum', but that optimizer has \['betas', 'lr'\]"
    with pytest.raises(ValueError, match=refused):
        set_option(group, "momentum", 0.9, "generator.momentum")
