"""What is done to pictures to see whether metrics notice, and what is said of it."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.sensitivity import sensitivity
from experiments.sensitivity.distortions import DISTORTIONS, distort, levels, redden

LEVELS = ["0", "1", "2", "3"]
OPTIONS = {"blur": 0.5, "noise": 5.0, "jpeg": 90.0, "colour": 5.0}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.0], "blind"),
        ([1.0, 1.1, 2.0, 3.0], "seen from 2"),
        ([1.0, 2.0, 1.9, 3.0], "seen from 1, but for noise"),
        ([1.0, 3.0, 2.0, 4.0], "seen from 1, not monotone"),
        ([1.0, 3.0, 2.0, 1.0], "not monotone, the worst not seen"),
        ([1.0, 1.0, 1.0, 0.5], "wrong way"),
    ],
)
def test_verdicts_of_a_score_that_should_rise_and_of_one_that_should_fall(values, expected):
    interval = (0.8, 1.2)
    assert sensitivity.verdict(LEVELS, values, interval, lower_is_better=True) == expected
    mirrored = [-v for v in values]
    assert sensitivity.verdict(LEVELS, mirrored, (-1.2, -0.8), lower_is_better=False) == expected


@pytest.mark.parametrize("name", OPTIONS)
def test_each_level_is_further_from_the_picture_and_the_first_is_the_picture(name):
    y, x = np.mgrid[:32, :32]
    image = torch.from_numpy(np.stack([100 + 60 * ((x // 8 + y // 8) % 2), 4 * x + 40, 4 * y + 40]).astype(np.uint8))
    made = [distort(name, level, image[None], 0).double() for level in DISTORTIONS[name].levels]
    errors = [float((m - image).square().mean()) for m in made]
    assert errors[0] == 0 and all(a < b for a, b in pairwise(errors))


def test_a_shift_of_red_by_40_adds_40_to_red_alone():
    image = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    assert redden(image, 40.0, 0)[0, :, 0, 0].tolist() == [140, 100, 100]


@pytest.fixture
def faces(monkeypatch):
    monkeypatch.setattr(sensitivity, "OTHERS", 100)
    hair = np.arange(3000) % 20
    splits = {"train": np.arange(1000), "val": np.arange(1000, 2000), "test": np.arange(2000, 3000)}
    store = SimpleNamespace(
        labels=np.eye(20)[hair], label_names=[f"hair={i}" for i in range(20)], split=splits.__getitem__
    )
    return sensitivity.Faces("avatars", store, 160, 500, 0)


def test_pictures_that_are_chosen_are_as_many_as_they_should_be(faces):
    found = {(name, level): index for name, level, index in faces.choices()}
    assert {len(index) for index in found.values()} == {160}
    for level, kinds in zip(levels("modes"), (20, 15, 10, 5, 2), strict=True):
        index = found["modes", level]
        assert len(np.unique(index)) == 160 and len(np.unique(index % 20)) == kinds
    assert [len(np.unique(found["duplicates", str(k)])) for k in (1, 2, 4, 8, 16)] == [160, 80, 40, 20, 10]
    assert [int((found["copier", f"{s}%"] < 1000).sum()) for s in (0, 25, 50, 75, 100)] == [0, 40, 80, 120, 160]
    assert not set(faces.others) & set(np.concatenate(list(found.values())))


def test_a_count_that_the_fewest_modes_can_not_fill_is_refused(faces):
    with pytest.raises(ValueError, match=r"only 1.. held-out pictures of avatars show the fewest modes"):
        sensitivity.Faces("avatars", faces.store, 300, 500, 0)
