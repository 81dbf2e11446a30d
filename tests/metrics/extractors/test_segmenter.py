"""The segmenter as a judge: the same maps in any block, at any size, and only for the maps that it knows."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.metrics.extractors.segmenter import load_segmenter
from lightning_avatars.metrics.weights import content_hash, read
from lightning_avatars.networks.segmenter import SegmentationNet, save_segmenter

NAMES = ["background", "skin", "hair"]


def saved(folder, channels=3, seed=0):
    torch.manual_seed(seed)
    path = folder / "mine.safetensors"
    save_segmenter(SegmentationNet(16, channels, NAMES, width=4, halvings=2), path)
    return path


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_says_what_it_is(tmp_path):
    segmenter = load_segmenter(str(saved(tmp_path)), NAMES)
    assert (segmenter.name, segmenter.mask_names, segmenter.resolution) == ("mine", NAMES, 16)
    assert segmenter.sha256 == content_hash(read(tmp_path / "mine.safetensors"))
    assert load_segmenter(saved(tmp_path, seed=1)).sha256 != segmenter.sha256
    assert segmenter.resize == "bilinear, antialiased, to 16 x 16" and segmenter.precision == "float32"
    assert not segmenter.network.training and not any(p.requires_grad for p in segmenter.parameters())


def test_maps_are_bytes_of_the_images_size_whatever_that_is(tmp_path):
    segmenter = load_segmenter(saved(tmp_path))
    for size in ((16, 16), (32, 32), (20, 28)):
        found = segmenter(bytes_of(3, 3, *size))
        assert found.dtype == torch.uint8 and found.shape == (3, 1, *size) and int(found.max()) < 3


def test_maps_are_the_likeliest_parts(tmp_path):
    segmenter, images = load_segmenter(saved(tmp_path)), bytes_of(3, 3, 16, 16)
    logits = segmenter.network(images.float() / 127.5 - 1)
    assert torch.equal(segmenter(images)[:, 0].long(), logits.argmax(1))


def test_a_large_picture_is_named_as_its_small_copy(tmp_path):
    segmenter, small = load_segmenter(saved(tmp_path)), bytes_of(2, 3, 16, 16)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (segmenter(large)[..., ::2, ::2] == segmenter(small)).float().mean() > 0.75  # edges of random parts aside


def test_blocks_and_autocast_change_nothing(tmp_path):
    segmenter, images = load_segmenter(saved(tmp_path)), bytes_of(5, 3, 16, 16)
    whole = segmenter(images)
    segmenter.batch = 2
    assert torch.equal(segmenter(images), whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(segmenter(images), whole)


def test_gray_is_seen_in_three_equal_channels_and_colours_are_averaged_where_only_gray_is_known(tmp_path):
    gray = bytes_of(3, 1, 16, 16)
    for channels in (1, 3):
        segmenter = load_segmenter(saved(tmp_path, channels))
        assert torch.equal(segmenter(gray), segmenter(gray.expand(-1, 3, -1, -1)))


def test_what_it_can_not_judge_is_named(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"names the parts background, skin, hair, but .* have background, hat"):
        load_segmenter(path, ["background", "hat"])
    with pytest.raises(ValueError, match=r"data's label maps have none"):
        load_segmenter(path, [])
    with pytest.raises(FileNotFoundError, match=r"no segmenter at .*none\.safetensors: train one by"):
        load_segmenter(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="takes uint8 images"):
        load_segmenter(path)(torch.rand(1, 3, 16, 16))
