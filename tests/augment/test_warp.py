"""The warp: its matrices, what it does to known pictures, and that it is linear with its own adjoint."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_avatars.augment.warp import (
    Lookup,
    Spread,
    compose,
    places,
    rotation,
    scaling,
    spread_in_order,
    translation,
    warp,
)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(angle: float) -> Tensor:
    return rotation(t(math.cos(angle)), t(math.sin(angle)))


def random_maps(n: int) -> Tensor:
    z = image(5, n, seed=1)
    turns = rotation(z[0].cos(), z[0].sin())
    return compose(turns, scaling((0.3 * z[1]).exp(), (0.3 * z[2]).exp()), translation(3 * z[3], 3 * z[4]))


def moved(point: tuple[float, float], matrix: Tensor) -> list[float]:
    return (matrix[0] @ t(*point, 1))[:2].tolist()


def test_matrices_move_points_as_their_names_say():
    assert moved((1, 2), scaling(t(3), t(0.5))) == [3, 1]
    assert moved((1, 2), translation(t(3), t(-1))) == [4, 1]
    assert moved((1, 0), turn(math.pi / 2)) == pytest.approx([0, 1]), "x turns towards y, down the image"
    assert turn(0.3)[0].tolist() == [[math.cos(0.3), -math.sin(0.3), 0], [math.sin(0.3), math.cos(0.3), 0], [0, 0, 1]]


def test_matrices_compose_from_right_to_left():
    a, b, c = random_maps(4), random_maps(8)[4:], translation(t(1, 2, 3, 4), t(4, 3, 2, 1))
    torch.testing.assert_close(compose(a, b, c), a @ b @ c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identity_changes_no_bit_whatever_the_others_do(dtype):
    x = image(4, 3, 8, 8).to(dtype)
    maps = random_maps(4)
    maps[[0, 2]] = torch.eye(3).double()
    found = warp(x, maps)
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    assert (found[[1, 3]] - x[[1, 3]]).abs().amax((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (6, 10), (3, 2)])
def test_flips_and_whole_translations_are_copies(height, width):
    x = image(2, 3, height, width)
    one = t(1, 1)
    torch.testing.assert_close(warp(x, scaling(-one, one)), x.flip(3))
    torch.testing.assert_close(warp(x, scaling(one, -one)), x.flip(2))
    found = warp(x, translation(-one, 0 * one))  # the result's pixel looks one to its left
    torch.testing.assert_close(found[..., 1:], x[..., :-1])
    torch.testing.assert_close(found[..., 0], x[..., 1])  # mirrored about the first pixel
    found = warp(x, translation(0 * one, 2 * one))
    torch.testing.assert_close(found[:, :, : height - 2], x[:, :, 2:])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_copies(turns):
    x = image(2, 3, 8, 8)
    inverse = turn(-turns * math.pi / 2).expand(2, 3, 3)
    torch.testing.assert_close(warp(x, inverse), x.rot90(-turns, (2, 3)))


def test_a_translation_far_outside_sees_the_mirrored_plane():
    x = image(1, 1, 5, 6)
    period = t(10)  # twice the distance between the outermost pixels
    torch.testing.assert_close(warp(x, translation(3 * period, t(0))), x)
    torch.testing.assert_close(warp(x, translation(t(5), t(0))), x.flip(3))


def wave(size: int, x: float, y: float, by: Tensor | None = None) -> Tensor:
    """A plane wave with x and y radians per pixel about the centre, where ``by`` sends the pixels."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    points = torch.stack([at.expand(size, size), at[:, None].expand(size, size), torch.ones(size, size)], -1)
    points = points if by is None else points @ by[0].T
    return (points[..., 0] * x + points[..., 1] * y).cos()[None, None]


@pytest.mark.parametrize("angle", [0.3, 1.1, 2.5])
def test_smooth_waves_turn_as_they_should(angle):
    found = warp(wave(48, 0.3, 0.2), turn(angle))[..., 14:-14, 14:-14]
    torch.testing.assert_close(found, wave(48, 0.3, 0.2, turn(angle))[..., 14:-14, 14:-14], atol=0.02, rtol=0)


def test_shrinking_removes_what_would_alias():
    half = scaling(t(2), t(2))  # the result looks twice as far
    fine, coarse = wave(65, 0.9 * math.pi, 0), wave(65, 0.2 * math.pi, 0)
    assert warp(fine, half)[..., 20:-20, 20:-20].abs().max() < 0.12, "it would come back as a coarse wave"
    expected = wave(65, 0.4 * math.pi, 0)[..., 20:-20, 20:-20]
    torch.testing.assert_close(warp(coarse, half)[..., 20:-20, 20:-20], expected, atol=0.08, rtol=0)


def test_places_are_twice_as_dense_as_pixels_with_a_margin_of_four():
    at = places(torch.eye(3)[None], 3, 5)
    assert at.shape == (1, 13, 17, 2)
    assert at[0, 4, 4].tolist() == [-1, -1] and at[0, 8, 12].tolist() == [1, 1]
    assert at[0, 4, 5].tolist() == [-0.75, -1] and at[0, 5, 4].tolist() == [-1, -0.5]


def test_it_is_linear():
    maps, x, y = random_maps(2), image(2, 2, 6, 6), image(2, 2, 6, 6, seed=3)
    torch.testing.assert_close(warp(2 * x - 3 * y, maps), 2 * warp(x, maps) - 3 * warp(y, maps))


def test_its_derivative_is_its_adjoint():
    maps, x, y = random_maps(2), image(2, 2, 6, 7).requires_grad_(), image(2, 2, 6, 7, seed=3)
    (back,) = torch.autograd.grad(warp(x, maps), x, y)
    torch.testing.assert_close((warp(x, maps) * y).sum(), (x * back).sum())


def test_lookup_and_spread_are_adjoint():
    at = places(random_maps(2), 4, 5)
    x, y = image(2, 3, 7, 9), image(2, 3, 15, 17, seed=2)
    torch.testing.assert_close((Lookup.apply(x, at) * y).sum(), (Spread.apply(y, at, 7, 9) * x).sum())


def test_the_warp_has_two_derivatives():
    x, maps = image(2, 1, 4, 3).requires_grad_(), random_maps(2)
    assert gradcheck(lambda x: warp(x, maps), x)
    assert gradgradcheck(lambda x: warp(x, maps), x)
    # Linear, so that only a function of it has a second derivative worth the name.
    assert gradgradcheck(lambda x: warp(x, maps).pow(3), x)


def test_both_ways_to_spread_agree():
    at, y = 3 * places(random_maps(3), 4, 5), image(3, 2, 15, 17)  # far outside too
    torch.testing.assert_close(spread_in_order(y, at, 7, 9), Spread.apply(y, at, 7, 9))


def test_the_warp_does_not_follow_autocast():
    x, maps = image(1, 3, 8, 8).float(), random_maps(1)
    with torch.autocast("cpu", torch.bfloat16):
        composed = compose(maps.float(), maps.float())
    torch.testing.assert_close(composed, (maps @ maps).float())
    assert warp(x, maps.float()).dtype == torch.float32


def test_images_of_one_pixel_are_refused():
    for shape in ((1, 8), (8, 1)):
        with pytest.raises(ValueError, match=rf"at least 2 x 2 pixels, got {shape[0]} x {shape[1]}"):
            warp(torch.zeros(1, 3, *shape), torch.eye(3)[None])
