import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_avatars.data import decode
from lightning_avatars.data.decode import Decoder, Preparation
from lightning_avatars.data.sources import find

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def solid(color, size=(8, 8), mode="RGB"):
    return Image.new(mode, size, color)


def colors(data, **choices):
    """Prepare 4 x 4 pixels: H W C."""
    return Preparation(4, **choices).decode(data).image.transpose(1, 2, 0)


def gradient(width, height):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // (width - 1), y * 255 // (height - 1), x * 0], -1).astype(np.uint8))


def test_plain_pictures_are_c_h_w_bytes_with_size_and_digest():
    decoded = Preparation(4).decode(encoded(solid(RED, (8, 6))))
    assert decoded.image.shape == (3, 4, 4) and decoded.image.dtype == np.uint8 and decoded.image.flags.c_contiguous
    assert decoded.size == (8, 6) and len(decoded.digest) == 16 and decoded.error is None
    assert (decoded.image.transpose(1, 2, 0) == RED).all()


def test_a_picture_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (Preparation(16).decode(encoded(Image.fromarray(pixels))).image == pixels.transpose(2, 0, 1)).all()


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = Preparation(8).decode(encoded(Image.fromarray(stripes))).image[:, 1:-1, 1:-1]
    assert (abs(small.astype(int) - 127) <= 3).all()


def test_transparency_shows_the_background():
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 8, 4))
    image = colors(encoded(half), background="#00ff00")
    assert (image[0] == BLUE).all() and (image[-1] == GREEN).all()
    assert (colors(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)))) == 127).all()
    assert (colors(encoded(Image.new("LA", (8, 8), (0, 0)))) == WHITE).all()
    keyed = solid(RED)
    assert (colors(encoded(keyed, transparency=RED), background="blue") == BLUE).all()


def test_palettes_with_and_without_transparency():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (colors(encoded(palette)) == RED).all()
    assert (colors(encoded(palette, transparency=1)) == WHITE).all()
    assert (colors(encoded(palette, "GIF", transparency=1), background="blue") == BLUE).all()


def test_gray_and_colour_become_each_other():
    assert (colors(encoded(solid(100, mode="L"))) == 100).all()
    gray = colors(encoded(solid(RED)), channels=1)
    assert gray.shape == (4, 4, 1) and (gray == 76).all()
    assert (colors(encoded(solid(1, mode="1")), channels=1) == 255).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_cut(format, channels):
    ramp = np.repeat(np.array([[0, 257 * 50, 257 * 200, 65535]], np.uint16), 4, 0)
    image = colors(encoded(Image.fromarray(ramp), format), channels=channels)
    assert image.shape == (4, 4, channels)
    assert (image == np.array([0, 50, 200, 255])[None, :, None]).all()


def test_16_bit_colour_png():
    row = b"\0" + struct.pack(">3H", 65535, 257 * 100, 0) * 4

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    assert (colors(data) == (255, 100, 0)).all()


def test_numbers_without_a_range_are_refused():
    with pytest.raises(ValueError, match="no known range"):
        colors(encoded(Image.new("F", (8, 8), 0.5), "TIFF"))
    with pytest.raises(ValueError, match="no known range"):
        colors(encoded(Image.fromarray(np.full((8, 8), 1 << 20, np.int32)), "TIFF"))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    image = colors(encoded(solid((0, 255, 255, 0), mode="CMYK"), format))
    assert (abs(image.astype(int) - RED) <= 3).all()


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 1)), (3, (1, 1)), (4, (1, 0)), (5, (0, 0)), (6, (0, 1)), (7, (1, 1)), (8, (1, 0))],
)
def test_exif_turns_the_picture(orientation, corner):
    """The stored top left is red; where it belongs is what the tag says."""
    image = solid(BLUE)
    image.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = colors(encoded(image, "PNG", exif=exif))
    red = [(y, x) for y in (0, 1) for x in (0, 1) if turned[3 * y, 3 * x, 0] > 200]
    assert red == [corner]


def test_animations_give_their_first_frame():
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(solid(RED), format, save_all=True, append_images=[solid(GREEN), solid(BLUE)])
        assert (abs(colors(data).astype(int) - RED) <= 2).all(), format


def test_crop_takes_the_centre():
    wide = solid(RED, (24, 8))
    wide.paste(GREEN, (2, 0, 22, 8))  # the filter looks a little beyond the square
    assert (colors(encoded(wide)) == GREEN).all()
    assert (colors(encoded(wide.rotate(90, expand=True))) == GREEN).all()
    assert (colors(encoded(wide), crop=0.1) == GREEN).all()
    steps = np.asarray(gradient(18, 22))
    expected = steps[4:18, 2:16].transpose(2, 0, 1)
    assert (Preparation(14, crop=14 / 18).decode(encoded(gradient(18, 22))).image == expected).all()


def test_pad_keeps_everything():
    wide = colors(encoded(solid(RED, (16, 8))), fit="pad", background="blue")
    assert (wide[1:3] == RED).all() and (wide[0] == BLUE).all() and (wide[3] == BLUE).all()
    gray = colors(encoded(solid(RED, (4, 16))), fit="pad", background="white", channels=1)
    assert (gray[:, 0] == 255).all() and gray[2, 1, 0] == 76
    assert (colors(encoded(solid(RED, (1, 999))), fit="pad", background="red") == RED).all()


def test_digests_are_of_pixels_not_of_files():
    image = gradient(20, 20)
    digest = {format: Preparation(4).decode(encoded(image, format)).digest for format in ("PNG", "BMP", "TIFF", "PPM")}
    assert len(set(digest.values())) == 1
    assert Preparation(8).decode(encoded(image)).digest == digest["PNG"]
    assert Preparation(4).decode(encoded(gradient(20, 21))).digest != digest["PNG"]


def test_broken_pictures_come_back_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MOST_PIXELS", 10_000)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    files = {
        "bomb.png": encoded(solid(RED, (101, 100), "RGB")),
        "cut.jpg": encoded(noise, "JPEG")[:-900],
        "cut.png": encoded(noise)[:-900],
        "empty.png": b"",
        "fake.jpg": b"<html>not found</html>",
        "good.png": encoded(noise),
        "script.gif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    decoded = Decoder(find(tmp_path), Preparation(4))([*files])
    errors = {name: one.error for name, one in zip(files, decoded, strict=True)}
    assert errors.pop("good.png") is None
    assert "101 x 100 pixels are more than the 10,000" in errors["bomb.png"]
    assert "truncated" in errors["cut.jpg"] and "truncated" in errors["cut.png"]
    for name in ("empty.png", "fake.jpg", "script.gif"):
        assert errors[name].startswith("not a picture of a known format (BMP, GIF, JPEG")
    assert all(one.image is None for name, one in zip(files, decoded, strict=True) if name != "good.png")


def test_a_real_decompression_bomb_is_refused_before_it_is_decoded():
    tiny = encoded(Image.new("1", (20_000, 10_000)))
    assert len(tiny) < 100_000
    with pytest.raises(Exception, match="pixels"):
        Preparation(4).decode(tiny)
