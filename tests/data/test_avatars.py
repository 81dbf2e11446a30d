"""Avatars: the same person for the same seed, attributes that balance, and any style."""

import numpy as np
import pytest

from lightning_avatars.data import avatars as module
from lightning_avatars.data.artwork import always_present, style_names
from lightning_avatars.data.avataaars import AVATAAARS
from lightning_avatars.data.avatars import Avatars, choose

GROUPS = [
    "hair",
    "hair_color",
    "skin",
    "eyes",
    "eyebrows",
    "mouth",
    "clothes",
    "clothes_color",
    "accessories",
    "facial_hair",
]


def test_every_avatar_is_a_picture_with_one_value_of_each_group():
    dataset = Avatars(12)
    pictures = list(dataset.pictures(32))
    assert len(pictures) == 12
    assert [picture.name for picture in pictures[:2]] == ["0-0", "0-1"]
    groups = [name.split("=")[0] for name in dataset.label_names]
    assert list(dict.fromkeys(groups)) == GROUPS
    for picture in pictures:
        assert picture.image.shape == (3, 32, 32)
        assert picture.image.dtype == np.uint8
        assert picture.labels.dtype == np.float32
        for group in GROUPS:
            assert picture.labels[[g == group for g in groups]].sum() == 1
    assert len({picture.digest for picture in pictures}) == 12


def test_same_seed_same_pixels_and_more_avatars_keep_the_earlier_ones():
    few, many, other = (
        list(Avatars(3).pictures(32)),
        list(Avatars(6).pictures(32)),
        list(Avatars(3, seed=1).pictures(32)),
    )
    for a, b, c in zip(few, many, other, strict=False):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.labels, b.labels)
        assert a.digest == b.digest != c.digest


def test_several_processes_draw_the_same_in_the_same_order(monkeypatch):
    alone = list(Avatars(9).pictures(16))
    monkeypatch.setattr(module, "FEW", 2)
    apart = list(Avatars(9).pictures(16))
    assert all(np.array_equal(a.image, b.image) and a.name == b.name for a, b in zip(alone, apart, strict=True))


def test_labels_say_what_is_drawn():
    dataset = Avatars(40)
    skin = [name for name in dataset.label_names if name.startswith("skin=")]
    start = dataset.label_names.index(skin[0])
    for picture in dataset.pictures(280):
        value = skin[int(picture.labels[start : start + len(skin)].argmax())].split("=")[1]
        color = AVATAAARS["skin"][value].options["skinColor"]
        cheek = picture.image[:, 143, 100]  # beside every mouth, below every pair of glasses
        if picture.labels[dataset.label_names.index("facial_hair=none")]:
            assert "#" + bytes(cheek.tolist()).hex() == color


def test_attributes_follow_their_shares_and_are_independent():
    rows = choose(0, 20_000)
    for group, values in AVATAAARS.items():
        total = sum(value.share for value in values.values())
        for name, value in values.items():
            frequency = np.mean([row[group] == name for row in rows])
            assert frequency == pytest.approx(value.share / total, abs=0.02), f"{group}={name}"
    glasses = np.array([row["accessories"] != "none" for row in rows])
    beard = np.array([row["facial_hair"] != "none" for row in rows])
    assert abs(np.corrcoef(glasses, beard)[0, 1]) < 0.03
    assert not any(row["hair"] == "hijab" and row["facial_hair"] != "none" for row in rows)


def test_nothing_disturbing_is_drawn():
    drawn = {option for values in AVATAAARS.values() for value in values.values() for option in value.options.values()}
    assert drawn.isdisjoint({"vomit", "xDizzy", "cry", "eyepatch", "skull", "resist"})


def test_digest_does_not_depend_on_the_resolution():
    small, large = list(Avatars(3).pictures(16)), list(Avatars(3).pictures(64))
    assert [picture.digest for picture in small] == [picture.digest for picture in large]


def test_attributes_choose_labels_and_leave_pixels():
    dataset = Avatars(3, attributes=["skin", "hair"])
    assert {name.split("=")[0] for name in dataset.label_names} == {"hair", "skin"}
    assert np.array_equal(next(dataset.pictures(16)).image, next(Avatars(3).pictures(16)).image)
    with pytest.raises(ValueError, match=r"attributes \['beard'\].*facial_hair"):
        Avatars(attributes=["beard"])


def test_background_is_behind_the_avatar():
    picture = next(Avatars(1, background="#102030").pictures(32))
    assert picture.image[:, 16, 0].tolist() == [0x10, 0x20, 0x30]
    with pytest.raises(ValueError, match="background is 'white'"):
        Avatars(background="white")


def test_another_style_is_labelled_with_the_variants_that_it_draws():
    dataset = Avatars(20, style="micah")
    assert dataset.name == "avatars_micah"
    groups = [name.split("=")[0] for name in dataset.label_names]
    assert {"hair", "facial_hair", "glasses"} <= set(groups)
    assert "glasses=none" in dataset.label_names
    assert "mouth=none" not in dataset.label_names
    for picture in dataset.pictures(32):
        for group in set(groups):
            assert picture.labels[[g == group for g in groups]].sum() == 1


def test_every_shipped_style_has_distinct_labels():
    for style in style_names():
        names = Avatars(style=style).label_names
        assert len(set(names)) == len(names)


def test_a_part_that_every_variant_uses_is_always_present():
    part = {"type": "component", "name": "eyes"}
    components = {
        "head": {"variants": {"a": {"elements": [part]}, "b": {"elements": [{"type": "element", "children": [part]}]}}},
        "eyes": {"variants": {"a": {"elements": []}}},
        "hat": {"probability": 10, "variants": {"a": {"elements": []}}},
    }
    canvas = [{"type": "component", "name": "head"}, {"type": "component", "name": "hat"}]
    assert always_present(canvas, components) == {"head", "eyes"}


def test_a_misspelt_style_lists_the_nearest():
    with pytest.raises(ValueError, match=r"'avatars' is not among .* avataaars"):
        Avatars(style="avatars")


def test_the_fingerprint_holds_every_choice():
    base = Avatars().fingerprint()
    assert {"dicebear-core", "dicebear-styles", "pylunasvg"} <= set(base)
    others = [
        Avatars(5),
        Avatars(seed=1),
        Avatars(style="micah"),
        Avatars(background="#000000"),
        Avatars(attributes=["hair"]),
    ]
    assert all(other.fingerprint() != base for other in others)
