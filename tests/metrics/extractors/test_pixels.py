"""Pixels as a description that is the same for a picture and its mirror image, and for nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_avatars.metrics.extractors.pixels import Pixels


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_features_are_sums_and_differences_of_mirrored_pixels():
    images = bytes_of(3, 3, 16, 16)
    features, logits = Pixels()(images)
    assert features.shape == (3, 768) and features.dtype == torch.float32 and logits is None and Pixels().dim == 768
    x = images.double() / 255
    for colour, row, column in ((0, 0, 0), (2, 15, 7), (1, 8, 3)):
        left, right = x[:, colour, row, column], x[:, colour, row, 15 - column]
        place = (colour * 16 + row) * 8 + column
        torch.testing.assert_close(features[:, place], (left + right).float(), rtol=0, atol=1e-6)
        torch.testing.assert_close(features[:, 384 + place], (left - right).abs().float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (20, 31), (8, 8)])
def test_a_mirrored_picture_has_the_same_features_and_one_upside_down_has_others(shape):
    images = bytes_of(4, 3, *shape)
    features = Pixels()(images).features
    torch.testing.assert_close(Pixels()(images.flip(3)).features, features, rtol=0, atol=1e-5)
    assert (Pixels()(images.flip(2)).features - features).norm(dim=1).min() > 0.5


def test_the_distance_of_two_pictures_is_that_of_their_pixels_where_both_lie_the_same_way():
    # (a + b)^2 + (a - b)^2 = 2 (a^2 + b^2), as long as the differences have one sign.
    slope = torch.arange(16).expand(1, 3, 16, 16) * 8
    first, second = (slope + 10).to(torch.uint8), (slope // 2 + bytes_of(1, 3, 16, 1) // 8).to(torch.uint8)
    apart = (Pixels()(first).features - Pixels()(second).features).square().sum()
    pixels = (first.double() - second.double()).square().sum() / 255**2
    assert float(apart) == pytest.approx(2 * float(pixels), rel=1e-5)


def test_pictures_are_shrunk_with_antialiasing():
    images = bytes_of(2, 3, 64, 64)
    expected = F.interpolate(images.float() / 255, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(Pixels().prepare(images), expected)
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).mul(255).to(torch.uint8)
    gray = Pixels().prepare(board.expand(1, 3, 64, 64))
    assert float((gray - 0.5).abs().max()) < 0.01  # a pixel of the board is nothing at a quarter of its size


def test_gray_pictures_sizes_in_a_list_and_names():
    gray = bytes_of(2, 1, 24, 24)
    pixels = Pixels()
    assert torch.equal(pixels(gray).features, pixels(gray.expand(-1, 3, -1, -1)).features)
    mixed = [gray[0], bytes_of(3, 30, 17)]
    assert torch.equal(pixels(mixed).features[1:], pixels(mixed[1][None]).features)
    assert pixels.score("copied") == "copied" and pixels.sha256 == Pixels().sha256 and pixels.classes == 0
    assert list(pixels.parameters()) == [] and list(pixels.state_dict()) == [] and pixels.device.type == "cpu"
