"""Consistency of discriminators that can and can't tell a moved image, and the movements themselves."""

import pytest
import torch
from torch.nn.functional import pad

from lightning_avatars.seeding import Draws
from lightning_avatars.terms.consistency import Consistency, flip_and_move, reach
from tests.terms.test_gradients import Line, turn


def draws(count=64, start=0, stop=None, total=None):
    return Draws(0, 0, total or count, start, stop or count, torch.device("cpu"))


def test_images_are_flipped_and_moved_by_whole_pixels():
    x = torch.rand(64, 2, 6, 8)
    moved = flip_and_move(x, draws(), "s", 0.25)
    u = draws().uniform("s", 3)
    down, right = reach(u[:, 0], 0.25, 6).tolist(), reach(u[:, 1], 0.25, 8).tolist()
    assert set(down) == {-1, 0, 1} and set(right) == {-2, -1, 0, 1, 2}
    padded = pad(x, (2, 2, 1, 1), mode="replicate")
    for i, flips in enumerate(u[:, 2] < 0.5):
        image = padded[i].flip(-1) if flips else padded[i]
        assert torch.equal(moved[i], image[:, 1 + down[i] : 7 + down[i], 2 + right[i] : 10 + right[i]])


def test_without_a_shift_only_the_flip_remains():
    x = torch.rand(8, 3, 4, 4)
    moved = flip_and_move(x, draws(8), "s", 0.0)
    flipped = draws(8).uniform("s", 3)[:, 2] < 0.5
    assert torch.equal(moved, torch.where(flipped[:, None, None, None], x.flip(-1), x))


def test_processes_and_chunks_move_images_as_one_would():
    x = torch.rand(8, 3, 8, 8)
    whole = flip_and_move(x, draws(8), "s", 0.25)
    parts = [flip_and_move(x[i : i + 4], draws(4, i, i + 4, 8), "s", 0.25) for i in (0, 4)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_linear_discriminator_differs_by_what_moved(balanced):
    line, term = Line(scales=2), Consistency(balanced=balanced)
    step = turn(line, term)
    expected = 0
    for name, x in [("real", step.real), ("fake", step.fake)][: 1 + balanced]:
        change = x - flip_and_move(x, step.draws, f"consistency/{name}", 0.125)
        expected += sum((change * w).flatten(1).sum(1).square().mean() for w in line.w)
    torch.testing.assert_close(term(step), expected)
    assert term.weight == 10 and term.differentiates == ()


def test_a_discriminator_that_sees_no_places_is_consistent_without_shifts():
    line, term = Line(), Consistency(shift=0.0, balanced=True)
    with torch.no_grad():
        line.w.copy_(line.w.mean((2, 3), keepdim=True).expand_as(line.w))
    assert term(turn(line, term)) < 1e-8


def test_it_leaves_the_generator_alone():
    term = Consistency(balanced=True)
    step = turn(Line(), term)
    term(step).backward()
    assert all(p.grad is None for p in step.module.generator.parameters())


@pytest.mark.parametrize("shift", [-0.1, 1.5])
def test_shift_is_a_share(shift):
    with pytest.raises(ValueError, match="share of the height"):
        Consistency(shift=shift)
