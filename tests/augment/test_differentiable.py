"""DiffAugment's three changes against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_avatars.augment.differentiable import DiffAugment, Shift, cut_out, recolour, shifts
from lightning_avatars.seeding import Draws


def draws(count: int, start: int = 0, stop: int | None = None) -> Draws:
    return Draws(0, 0, count, start, count if stop is None else stop, torch.device("cpu"))


def image(n: int, size: int = 8) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def uniform(n: int) -> Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(0))


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


def test_brightness_saturation_and_contrast():
    x, zero = image(2), column(0, 0)
    torch.testing.assert_close(recolour(x, column(1, -0.5), zero, zero), x + column(0.5, -0.25))
    grey = x.mean(1, keepdim=True).expand_as(x)
    found = recolour(x, zero, column(-1, 1), zero)
    torch.testing.assert_close(found, torch.stack([grey[0], 2 * x[1] - grey[1]]))
    found = recolour(x, zero, zero, column(-1, 1))
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, mean + (x - mean) * column(0.5, 1.5))


def test_translation_brings_in_zeros():
    x = image(3)
    found = Shift.apply(x, torch.tensor([2, 0, -8]), torch.tensor([-1, 3, 0]))
    expected = torch.zeros_like(x)
    expected[0, :, :-1, 2:] = x[0, :, 1:, :-2]
    expected[1, :, 3:] = x[1, :, :-3]
    assert torch.equal(found, expected)


def test_translation_has_two_derivatives():
    x, by = image(2, 4).double().requires_grad_(), (torch.tensor([1, -2]), torch.tensor([0, 3]))
    assert gradcheck(lambda x: Shift.apply(x, *by), x)
    assert gradgradcheck(lambda x: Shift.apply(x, *by).pow(3), x)


def test_translations_are_equally_likely_up_to_an_eighth():
    x, y = shifts(uniform(4000), 0.125, torch.empty(0, 3, 8, 32))
    assert x.unique().tolist() == list(range(-4, 5)) and y.unique().tolist() == [-1, 0, 1]
    assert (torch.bincount(y + 1) / 4000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_the_cutout_is_a_square_of_half_the_size_that_the_border_may_cut():
    cut = cut_out(torch.ones(4000, 1, 8, 8), uniform(4000), 0.5)[:, 0] == 0
    width, height = cut.any(1).sum(1), cut.any(2).sum(1)
    assert torch.equal(cut.sum((1, 2)), width * height), "a rectangle"
    assert width.unique().tolist() == height.unique().tolist() == [2, 3, 4]
    # Centres from 0 to 8, of nine pixels: the middle five leave it whole.
    assert (width == 4).float().mean().item() == pytest.approx(5 / 9, abs=0.03)
    whole = cut_out(torch.ones(1, 1, 8, 8), torch.tensor([[0.5, 0.5]]), 0.5)
    assert (whole[0, 0, 2:6, 2:6] == 0).all() and whole.sum() == 48


def test_parts_are_turned_off_by_zero():
    x = image(16)
    moved = DiffAugment(colour=0, cutout=0)(x, draws(16), "real")
    assert set(moved.unique().tolist()) <= {0.0, *x.unique().tolist()}
    cut = DiffAugment(colour=0, translation=0)(x, draws(16), "real")
    assert torch.equal(cut, torch.where(cut == 0, 0, x)) and (cut == 0).flatten(1).any(1).all()
    coloured = DiffAugment(translation=0, cutout=0)(x, draws(16), "real")
    assert (coloured != x).flatten(1).any(1).all()


def test_half_the_strength_is_half_the_change_of_colour():
    x = torch.full((2000, 3, 2, 2), 0.25)
    change = DiffAugment(0.5, 0, 0)(x, draws(2000), "real") - x
    assert change.abs().max() <= 0.25 and change.abs().max() > 0.24


def test_chunks_see_what_the_batch_would():
    x, module = image(6), DiffAugment()
    pieces = [module(x[:2], draws(6, 0, 2), "real"), module(x[2:], draws(6, 2, 6), "real")]
    torch.testing.assert_close(torch.cat(pieces), module(x, draws(6), "real"))


@pytest.mark.parametrize(("name", "value"), [("colour", -0.1), ("translation", 1.5), ("cutout", 2)])
def test_strengths_are_from_zero_to_one(name, value):
    with pytest.raises(ValueError, match=f"{name} of the augmentation must be from 0 to 1, got {value}"):
        DiffAugment(**{name: value})


def test_an_augmentation_that_does_nothing_is_refused():
    with pytest.raises(ValueError, match="all 0: leave the augmentation out"):
        DiffAugment(0, 0, 0)
