"""Pictures of any size through networks that take few: what a network makes pixel by pixel comes out unchanged."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_avatars.tiles import cut, fading, mirrored, padded, starts, tiled, up_to, whole


@pytest.mark.parametrize(("size", "wanted"), [(5, 5), (5, 8), (7, 16), (3, 40), (2, 9), (1, 4)])
def test_a_row_goes_on_as_its_mirror_image_however_far(size, wanted):
    before = (wanted - size) // 2
    expected = np.pad(np.arange(size), (before, wanted - size - before), "reflect" if size > 1 else "edge")
    assert mirrored(size, wanted).tolist() == expected.tolist()


def test_what_was_enlarged_is_cut_to_the_same_picture():
    image, mask = torch.rand(2, 3, 7, 10), torch.randint(0, 5, (2, 1, 7, 10), dtype=torch.uint8)
    large = padded({"image": image, "mask": mask}, 16, 16)
    assert large["image"].shape == (2, 3, 16, 16) and large["mask"].dtype == torch.uint8
    assert torch.equal(cut(large["image"], 7, 10), image) and torch.equal(cut(large["mask"], 7, 10), mask)


@pytest.mark.parametrize("size", [16, 17, 23, 40, 100])
def test_tiles_reach_from_end_to_end_and_overlap_by_as_much_as_they_should(size):
    found = starts(size, 16, 4)
    assert found[0] == 0 and found[-1] == size - 16
    assert all(0 < later - before <= 12 for before, later in pairwise(found))
    assert len(found) == max(1, 1 + -(-(size - 16) // 12)), "no more tiles than it takes"


def test_weights_of_neighbours_add_up_to_one():
    weights = fading(16, 4)
    torch.testing.assert_close(weights[-4:] + weights[:4], torch.ones(4).double())
    assert torch.equal(weights[4:-4], torch.ones(8).double()) and weights.min() > 0


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 30), (33, 17), (64, 48)])
@pytest.mark.parametrize("together", [1, 3])
def test_a_network_that_sees_single_pixels_makes_the_same_of_tiles_as_of_the_whole(height, width, together):
    image = torch.rand(1, 3, height, width)
    sizes = []

    def make(pixels):
        sizes.append(tuple(pixels["image"].shape[2:]))
        assert len(pixels["image"]) <= together
        return 1 - pixels["image"][:, :2]

    torch.testing.assert_close(tiled(make, {"image": image}, 8, 3, together), 1 - image[:, :2])
    assert set(sizes) == {(8, 8)}
    torch.testing.assert_close(whole(lambda p: 1 - p["image"], {"image": image}, 16), 1 - image)


def test_what_tiles_disagree_about_fades_from_one_to_the_next():
    image = torch.zeros(1, 1, 8, 24)
    count = iter(range(100))
    made = tiled(lambda pixels: torch.full_like(pixels["image"], float(next(count))), {"image": image}, 8, 4)
    row = made[0, 0, 0]
    assert len(row) == 24 and row[0] == 0 and row[-1] == 4 and (row.diff() >= -1e-6).all() and row.diff().max() < 0.4


def test_sizes_are_rounded_up():
    assert [up_to(size, 4) for size in (1, 4, 5)] == [4, 4, 8]
