"""Artwork as pixels: colours are exact, edges soft, and equal avatars have equal digests."""

import numpy as np
import pytest
from pylunasvg import Document

from lightning_avatars.data.artwork import check_style, draw, draw_many, rasterise, snake_case

HALF = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4.5" height="8" fill="#ff8000"/></svg>'


@pytest.mark.parametrize(
    ("name", "written"),
    [("facialHair", "facial_hair"), ("hair", "hair"), ("variant01", "variant01"), ("aB2cD", "a_b2c_d")],
)
def test_names_in_the_words_of_the_labels(name, written):
    assert snake_case(name) == written


def test_colours_are_painted_in_rgb_over_the_background():
    image = rasterise(Document.loadFromData(HALF), 8, "#0000ff")
    assert image.shape == (3, 8, 8) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert (image[:, :, :4] == np.array([255, 128, 0]).reshape(3, 1, 1)).all()
    assert (image[:, :, 5:] == np.array([0, 0, 255]).reshape(3, 1, 1)).all()
    assert np.abs(image[:, 0, 4].astype(int) - [128, 64, 128]).max() <= 2, "half of this column is covered"


def test_the_digest_tells_avatars_apart_whatever_their_size():
    small, large = (draw("avataaars", {"seed": "a"}, size, "#ffffff") for size in (16, 64))
    other, gray = draw("avataaars", {"seed": "b"}, 16, "#ffffff"), draw("avataaars", {"seed": "a"}, 16, "#808080")
    assert small.image.shape == (3, 16, 16) and len(small.digest) == 16
    assert small.digest == large.digest and small.variants == large.variants
    assert len({small.digest, other.digest, gray.digest}) == 3


def test_several_are_drawn_as_each_alone():
    options = [{"seed": "a"}, {"seed": "b"}]
    orders = [("micah", options[0]), ("avataaars", options[1])]
    for alone, among in zip(orders, draw_many(orders, 16, "#ffffff"), strict=True):
        assert np.array_equal(draw(*alone, 16, "#ffffff").image, among.image)


def test_styles_are_checked_by_name():
    check_style("lorelei")
    with pytest.raises(ValueError, match=r"style 'lorelie' is not among .* try lorelei"):
        check_style("lorelie")
