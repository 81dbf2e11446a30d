"""Changes of colour against the product of the paper's five matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_avatars.augment.colour import recolour

NEUTRAL = {"brightness": 0.0, "contrast": 1.0, "luma": 1.0, "hue": 0.0, "saturation": 1.0}
GREY = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / 3**0.5


def image(channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def change(x: Tensor, **values: float) -> Tensor:
    return recolour(x, *(torch.full((len(x),), value, dtype=torch.float64) for value in (NEUTRAL | values).values()))


def matrices(brightness: float, contrast: float, luma: float, hue: float, saturation: float) -> list[Tensor]:
    """Fig. 17, lines 48 to 70."""
    one, onto = torch.eye(4).double(), torch.outer(GREY, GREY)
    translate = one.clone()
    translate[:3, 3] = brightness
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]).double() / 3**0.5  # v x
    rotate = one.clone()
    rotate[:3, :3] = torch.linalg.matrix_exp(hue * cross)
    scale = torch.diag(torch.tensor([contrast, contrast, contrast, 1]).double())
    return [translate, scale, one - onto * (1 - luma), rotate, onto + (one - onto) * saturation]


def by_matrix(x: Tensor, matrix: Tensor) -> Tensor:
    homogeneous = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return torch.einsum("ij,njhw->nihw", matrix, homogeneous)[:, :3]  # saturation scales the fourth too, and comes last


ONE_BY_ONE = [{"brightness": -0.3}, {"contrast": 1.7}, {"luma": -1.0}, {"hue": 2.0}, {"saturation": 0.4}]


@pytest.mark.parametrize("values", ONE_BY_ONE)
def test_each_change_is_its_matrix(values):
    product = torch.eye(4).double()
    for matrix in matrices(**(NEUTRAL | values)):
        product = matrix @ product
    torch.testing.assert_close(change(image(), **values), by_matrix(image(), product))


def test_all_changes_are_the_product_in_order():
    values = {"brightness": 0.3, "contrast": 0.6, "luma": -1.0, "hue": -1.2, "saturation": 1.9}
    product = torch.eye(4).double()
    for matrix in matrices(**values):
        product = matrix @ product
    torch.testing.assert_close(change(image(), **values), by_matrix(image(), product))
    grey = image(1)
    as_colour = by_matrix(grey.expand(-1, 3, -1, -1), product)
    torch.testing.assert_close(change(grey, **values).expand(-1, 3, -1, -1), as_colour)


def test_hue_turned_by_a_third_permutes_the_channels():
    torch.testing.assert_close(change(image(), hue=2 * torch.pi / 3), image()[:, [2, 0, 1]])


def test_a_luma_flip_keeps_the_chroma():
    x, found = image(), change(image(), luma=-1.0)
    torch.testing.assert_close(found.mean(1), -x.mean(1))
    torch.testing.assert_close(found - found.mean(1, keepdim=True), x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_neutral_values_change_no_bit(channels):
    x = image(channels).float().contiguous(memory_format=torch.channels_last)
    assert torch.equal(change(x), x)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, these have 4; set colour to 0"):
        change(image(4))
