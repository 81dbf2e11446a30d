"""Bytes to floats and back, exactly; sheets where every image lies where it should."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.images import save_sheet, sheet, to_bytes, to_float, to_picture

BYTES = torch.arange(256, dtype=torch.uint8)


def test_all_bytes_survive_the_round_trip():
    assert torch.equal(to_bytes(to_float(BYTES)), BYTES)


def test_floats_are_in_closed_form():
    x = to_float(BYTES)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    torch.testing.assert_close(x.double(), torch.arange(256).double() * 2 / 255 - 1, rtol=0, atol=1e-7)
    assert BYTES[255] == 255, "the bytes themselves are left alone"


@pytest.mark.parametrize("offset", [-0.49, -0.2, 0.3, 0.49])
def test_floats_go_to_the_nearest_byte(offset):
    assert torch.equal(to_bytes((torch.arange(256) + offset) * 2 / 255 - 1), BYTES)


def test_out_of_range_is_clamped():
    x = torch.tensor([-torch.inf, -3.0, -1.0001, 1.0001, 3.0, torch.inf])
    assert to_bytes(x).tolist() == [0, 0, 0, 255, 255, 255]
    assert x[1] == -3, "the floats themselves are left alone"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_precision_becomes_bytes(dtype):
    assert to_bytes(torch.tensor([-1.0, 0.5, 1.0], dtype=dtype)).tolist() == [0, 191, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pictures_hold_the_same_bytes(channels, mode):
    image = torch.randint(256, (channels, 4, 6), dtype=torch.uint8)
    picture = to_picture(image)
    assert (picture.mode, picture.size) == (mode, (6, 4))
    assert np.array_equal(np.asarray(picture).reshape(4, 6, channels), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_lays_images_out_row_by_row(channels):
    images = torch.randint(255, (5, channels, 4, 6), dtype=torch.uint8)
    laid = sheet(images, columns=3)
    assert laid.shape == (3, 2 * (4 + 2) + 2, 3 * (6 + 2) + 2) and laid.dtype == torch.uint8
    paper = torch.ones(laid.shape, dtype=torch.bool)
    for i, image in enumerate(images):
        y, x = 2 + i // 3 * (4 + 2), 2 + i % 3 * (6 + 2)
        assert torch.equal(laid[:, y : y + 4, x : x + 6], image.expand(3, -1, -1))
        paper[:, y : y + 4, x : x + 6] = False
    assert (laid[paper] == 255).all(), "lines and the empty place are white"


def test_a_saved_sheet_is_that_sheet(tmp_path):
    images = torch.randint(256, (4, 1, 4, 4), dtype=torch.uint8)
    path = tmp_path / "new" / "folder" / "sheet.png"
    save_sheet(images, 2, path)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), sheet(images, 2).permute(1, 2, 0).numpy())
