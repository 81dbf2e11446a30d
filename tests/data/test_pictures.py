"""Pictures of folders as they are scored: every kind decoded, nothing left out unsaid, hashed by content."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.data.pictures import FolderPictures

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
COLOUR = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path):
    """Three pictures of one size."""
    path = tmp_path / "faces"
    path.mkdir()
    for i in range(3):
        Image.fromarray(PIXELS // (i + 1)).save(path / f"{i}.png")
    return path


def only(tmp_path, image: Image.Image, name: str = "one.png") -> torch.Tensor:
    """Decode a picture through a folder of its own."""
    (tmp_path / "alone").mkdir()
    image.save(tmp_path / "alone" / name)
    return FolderPictures(tmp_path / "alone").one(name)


def test_colours_are_kept_bit_for_bit(tmp_path):
    assert torch.equal(only(tmp_path, Image.fromarray(PIXELS)), COLOUR)


def test_gray_becomes_three_equal_channels(tmp_path):
    assert torch.equal(only(tmp_path, Image.fromarray(PIXELS[..., 0])), COLOUR[:1].expand(3, -1, -1))


def test_sixteen_bits_become_eight(tmp_path):
    wide = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    assert torch.equal(only(tmp_path, wide), COLOUR[:1].expand(3, -1, -1))


def test_transparent_parts_show_the_background(tmp_path):
    clear = Image.fromarray(np.dstack([PIXELS, np.zeros((6, 5), np.uint8)]))
    assert torch.equal(only(tmp_path, clear), torch.full((3, 6, 5), 255, dtype=torch.uint8))
    black = FolderPictures(tmp_path / "alone", background="black")
    assert not black.one("one.png").any() and black.key != FolderPictures(tmp_path / "alone").key


def test_palettes_and_print_colours_are_converted(tmp_path):
    few = Image.fromarray(PIXELS).quantize(4)
    assert torch.equal(only(tmp_path, few), torch.from_numpy(np.array(few.convert("RGB"))).permute(2, 0, 1))
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "alone" / "print.jpg", quality=100)
    red = FolderPictures(tmp_path / "alone").one("print.jpg").float().mean((1, 2))
    assert (red - torch.tensor([255.0, 0, 0])).abs().max() < 5


def test_one_size_is_a_tensor_and_several_are_a_list(folder):
    same = FolderPictures(folder).read(slice(0, 2))
    assert isinstance(same, torch.Tensor) and torch.equal(same, torch.stack([COLOUR, COLOUR // 2]))
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.png")
    found = FolderPictures(folder).read(slice(2, 4))
    assert isinstance(found, list) and torch.equal(found[0], COLOUR // 3)
    assert found[1].flatten().tolist() == [255, 0, 0]


def test_a_file_that_is_no_picture_is_named(folder):
    (folder / "notes.png").write_text("hello")
    with pytest.raises(
        ValueError, match=r"notes\.png in .*faces cannot be read: not a picture of a known format \(BMP"
    ):
        FolderPictures(folder).read(slice(0, 4))


def test_half_a_picture_is_named(folder):
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"0\.png in .*faces cannot be read: .+ remove it or repair it"):
        FolderPictures(folder).read(slice(0, 3))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures in"):
        FolderPictures(tmp_path)


def test_some_pictures_keep_their_order_and_have_a_key_of_their_own(folder):
    whole = FolderPictures(folder)
    some = whole.take(np.array([2, 0]))
    assert some.names == ["2.png", "0.png"] and len(some) == 2
    assert torch.equal(some.read(slice(0, 2)), torch.stack([COLOUR // 3, COLOUR]))
    assert len({pictures.key for pictures in (whole, some, whole.take(np.array([0, 2])))}) == 3


def test_the_key_tells_contents_apart_and_not_places(folder, tmp_path):
    key = FolderPictures(folder).key
    shutil.copytree(folder, tmp_path / "copy")
    assert FolderPictures(tmp_path / "copy").key == key
    Image.fromarray(PIXELS // 4).save(tmp_path / "copy" / "2.png")
    assert FolderPictures(tmp_path / "copy").key != key


def test_a_zip_has_the_same_pictures(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"faces/{path.name}")
    zipped = FolderPictures(tmp_path / "faces.zip")
    assert zipped.names == FolderPictures(folder).names
    assert torch.equal(zipped.read(slice(0, 3)), FolderPictures(folder).read(slice(0, 3)))


def test_jpegs_are_told_by_their_names(folder):
    assert not FolderPictures(folder).lossy
    Image.fromarray(PIXELS).save(folder / "3.JPG")
    assert FolderPictures(folder).lossy and not FolderPictures(folder, names=["0.png"]).lossy
