"""Ways through latent spaces against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avatars.exploration import Moments, factorised, linear, principal, spherical


def test_a_straight_line_goes_from_one_end_to_the_other():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0])
    assert linear(a, b, torch.tensor([0.0, 0.5, 1.0])).tolist() == [[1, 0], [2, 1], [3, 2]]


def test_a_great_circle_turns_at_an_even_pace_and_lengths_change_evenly():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    t = torch.linspace(0, 1, 5)
    way = spherical(a, b, t)
    torch.testing.assert_close(way.norm(dim=1), 2 + 2 * t)
    torch.testing.assert_close(torch.atan2(way[:, 1], way[:, 0]), t * math.pi / 2)


def test_between_equal_directions_a_great_circle_is_a_line():
    a = torch.randn(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spherical(a, 3 * a, torch.tensor([0.5]))[0], 2 * a)


def test_factorised_directions_are_those_that_a_layer_amplifies_most():
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    stretch = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    found = factorised(stretch[:, None] * turn, 3)
    torch.testing.assert_close((found @ turn.T).abs(), torch.eye(5)[:3], atol=1e-5, rtol=0)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_principal_directions_and_deviations_are_those_of_the_points():
    points = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 3.0, 2.0]) + 7
    directions, deviations = principal(points, 2)
    torch.testing.assert_close(directions.abs(), torch.eye(3)[[1, 2]], atol=0.03, rtol=0)
    torch.testing.assert_close(deviations, torch.tensor([3.0, 2.0]), rtol=0.02, atol=0)


@pytest.mark.parametrize("count", [0, 4])
def test_more_directions_than_there_are_are_refused(count):
    with pytest.raises(ValueError, match=f"there are 1 to 3 directions in this space, asked for {count}"):
        factorised(torch.eye(3), count)


def test_moments_are_those_of_all_batches_and_vectors_differences_of_means():
    draw = torch.Generator().manual_seed(3)
    latents = torch.randn(50, 4, generator=draw) * torch.tensor([1.0, 2.0, 3.0, 0.0]) + 5
    labels = torch.randint(0, 2, (50, 2), generator=draw).float()
    moments = Moments(4, 2)
    for some, which in zip(latents.split(20), labels.split(20), strict=True):
        moments.add(some, which)
    torch.testing.assert_close(moments.mean.float(), latents.mean(0))
    torch.testing.assert_close(moments.deviation.float(), latents.std(0, correction=0), atol=1e-5, rtol=1e-5)
    for label in range(2):
        having = labels[:, label] == 1
        expected = latents[having].mean(0) - latents[~having].mean(0)
        torch.testing.assert_close(moments.vector(label).float(), expected, atol=1e-5, rtol=1e-5)
