"""A generator that copies is found out, and an honest one is not accused."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.evaluation import copies, real
from lightning_avatars.evaluation.copies import CopyCheck
from lightning_avatars.evaluation.distribution import Seen
from lightning_avatars.evaluation.scores import Score
from tests.evaluation.arrays import Arrays, noise, silent

CPU = torch.device("cpu")
TRAIN, HELD_OUT, THIRD = noise(300, 1, 16), noise(150, 2, 16), noise(200, 3, 16)


def checked(samples, train=TRAIN, held_out=HELD_OUT, block: int = 30, diverged: bool = False) -> Score:
    """Check samples in blocks, the last one first."""
    check = CopyCheck(len(samples), Arrays(train), Arrays(held_out), CPU, silent)
    for first in reversed(range(0, len(samples), block)):
        index = torch.arange(first, min(first + block, len(samples)))
        check.update(Seen(index, samples[index], {}, None))
    ((name, score),) = check.scores(diverged).items()
    assert name == f"copied_{len(samples)}" and score.extractor == "pixels" and score.floor is None
    return score


def near(images, seed=9):
    """Retouch every pixel a little."""
    change = torch.randint(-3, 4, images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.int() + change).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.flip(3), near], ids=["same", "mirrored", "retouched"])
def test_a_copier_is_found(change):
    assert checked(change(TRAIN[:200])).value == 1
    half = checked(
        torch.cat([change(TRAIN[:100]), THIRD[:100]])[torch.randperm(200, generator=torch.Generator().manual_seed(5))]
    )
    low, high = half.interval
    assert 0.1 < low < 0.5 < high and abs(half.value - 0.5) < 0.15, half


def test_an_honest_generator_copies_nothing_within_the_interval():
    for samples in (THIRD, noise(200, 4, 16), near(THIRD)):
        score = checked(samples)
        low, high = score.interval
        assert low < 0 < high and abs(score.value) < 0.15


def test_the_value_is_one_less_the_share_of_held_out_neighbours_over_theirs_among_all():
    samples = torch.cat([TRAIN[:70], HELD_OUT[:30]])
    assert checked(samples).value == pytest.approx(1 - 0.3 * 450 / 150)  # 0.1
    assert checked(HELD_OUT[:50]).value == pytest.approx(1 - 450 / 150)  # -2: nearer than chance to what it never saw


def test_a_picture_on_both_sides_is_half_a_copy():
    both = TRAIN[:100]
    assert checked(both, both, both).value == pytest.approx(0)


def test_blocks_do_not_matter_and_a_list_of_pictures_is_as_good():
    one, other = checked(THIRD, block=7), checked(THIRD, block=200)
    assert one == other
    check = CopyCheck(20, Arrays(TRAIN), Arrays(HELD_OUT), CPU, silent)
    check.update(Seen(torch.arange(20), list(TRAIN[:20]), {}, None))
    assert check.scores(False)["copied_20"].value == 1


def test_gray_pictures_can_be_copied_too():
    train, held_out = noise(60, 1, 16, channels=1), noise(60, 2, 16, channels=1)
    assert checked(train[:40], train, held_out).value == 1


def test_of_more_samples_than_are_kept_the_first_are_looked_at(monkeypatch):
    monkeypatch.setattr(copies, "PAIRS", 50)
    assert checked(torch.cat([TRAIN[:50], HELD_OUT])).value == 1


def test_copies_are_found_among_more_training_pictures_than_are_kept(monkeypatch):
    monkeypatch.setattr(real, "KEPT_BYTES", 4 * 768 * 150)  # half of the training pictures
    score = checked(TRAIN[:200])
    assert score.value > 0.9, "a generator that only copies must not pass because some pictures were not looked at"


def test_a_diverged_generator_has_no_share_of_copies():
    score = checked(THIRD, diverged=True)
    assert score.value != score.value and score.plain()["value"] is None
