"""Parts of avatars: where each can be seen, whatever it is coloured, and the one colour that stands for it."""

import numpy as np
import pytest

from lightning_avatars.data.artwork import draw
from lightning_avatars.data.artwork_parts import PARTS, colour_name, covered, draw_many_parts, draw_parts, most_frequent
from lightning_avatars.data.avatars import choose, options_of

ROWS = choose(0, 30)
COLOURED = {
    "skin": ["skinColor"],
    "clothes": ["clothesColor"],
    "hair": ["hairColor"],
    "hat": ["hatColor"],
    "facial_hair": ["facialHairColor"],
}


def strongly_recoloured(options, names, resolution):
    """Find the pixels that take more than half of a change from one colour of the artwork to another."""
    green, magenta = (
        draw("avataaars", {**options, **dict.fromkeys(names, colour)}, resolution, "#ffffff").image.astype(int)
        for colour in ("#00ff00", "#ff00ff")
    )
    return np.abs(green - magenta).mean(0) > 255 / 2


@pytest.mark.parametrize(
    ("part", "missed", "more"),
    [
        ("skin", 0.04, 0.01),  # the nose, a faint shade, takes the skin's colour and is a part of its own
        ("clothes", 0.001, 0.12),  # white shirts and strings are part of the clothes, and of their own colour
        ("hair", 0.001, 0.01),
        ("hat", 0.001, 0.25),  # so is the rim of a beanie
        ("facial_hair", 0.001, 0.01),
    ],
)
def test_a_part_is_where_the_picture_takes_its_colour(part, missed, more):
    both = coloured = mapped = 0
    for values in ROWS:
        expected = strongly_recoloured(options_of(values), COLOURED[part], 64)
        found = draw_parts(options_of(values), 64, "#ffffff").mask[0] == PARTS.index(part)
        both, coloured, mapped = both + (expected & found).sum(), coloured + expected.sum(), mapped + found.sum()
    assert both > 2000
    assert 1 - both / coloured < missed
    assert 1 - both / mapped < more


def test_a_part_has_one_colour_and_the_background_its_own():
    for values in ROWS:
        options = options_of(values)
        drawn = draw_parts(options, 64, "#102030")
        assert drawn.mask.shape == (1, 64, 64) and drawn.mask.dtype == np.uint8
        assert drawn.palette.shape == (3, 64, 64) and drawn.palette.dtype == np.uint8
        for number in np.unique(drawn.mask):
            assert len(np.unique(drawn.palette[:, drawn.mask[0] == number], axis=1).T) == 1
        assert (drawn.palette[:, drawn.mask[0] == 0] == np.array([[0x10], [0x20], [0x30]])).all()
        for part, names in COLOURED.items():
            seen = drawn.palette[:, drawn.mask[0] == PARTS.index(part)]
            assert all("#" + bytes(pixel.tolist()).hex() == options[names[0]] for pixel in seen.T)


def test_the_avatar_is_the_one_that_is_drawn_without_its_parts():
    options = options_of(ROWS[0])
    alone, parts = draw("avataaars", options, 32, "#ffffff"), draw_parts(options, 32, "#ffffff")
    assert np.array_equal(alone.image, parts.avatar.image)
    assert (alone.digest, alone.variants) == (parts.avatar.digest, parts.avatar.variants)


def test_fixed_colours_are_black_mixed_with_the_skin():
    skin = np.array([0xED, 0xB9, 0x8A])
    for component, variant, share in [("nose", "default", 0.16), ("eyes", "closed", 0.6), ("eyebrows", "angry", 0.6)]:
        colour = np.frombuffer(bytes.fromhex(most_frequent(component, variant, "#edb98a")[1:]), np.uint8)
        assert np.abs(colour - (1 - share) * skin).max() <= 1
    assert most_frequent("mouth", "grimace", "#edb98a") == "#ffffff", "teeth are most of it"


def test_colours_that_a_person_chooses_have_names():
    assert [colour_name("top", variant) for variant in ("bob", "turban", "hijab")] == ["hair", "hat", "hat"]
    assert colour_name("facialHair", "beardLight") == "facialHair"
    assert colour_name("eyes", "happy") is colour_name("mouth", "smile") is None


def test_faint_parts_are_whole_and_shadows_are_no_parts():
    nose = covered("nose", "default", 280)
    assert nose.sum() == pytest.approx(2 / 3 * 24 * 8, rel=0.2), "a bow below a line, 24 wide and 8 high"
    rows, columns = np.flatnonzero(nose.any(1)), np.flatnonzero(nose.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (130, 137, 128, 151), "which is where the canvas has it"
    options = options_of({**ROWS[0], "hair": "wavy", "hair_color": "pink"})
    shade = draw("avataaars", options, 280, "#ffffff").image[:, 100, 140]
    assert not covered("top", "curvy", 280)[100, 140] and shade.tolist() != [0xF5, 0x97, 0x97]


def test_parts_are_at_the_same_place_and_of_the_same_colour_at_every_resolution():
    for values in ROWS[:10]:
        small, large = (draw_parts(options_of(values), size, "#ffffff") for size in (64, 128))
        assert (small.mask == large.mask[:, ::2, ::2]).mean() > 0.97
        shared = np.intersect1d(small.mask, large.mask)
        for number in shared:
            a, b = (d.palette[:, d.mask[0] == number][:, 0] for d in (small, large))
            assert np.array_equal(a, b), PARTS[number]


def test_later_parts_hide_earlier_ones():
    values = {**ROWS[0], "accessories": "none", "facial_hair": "none", "hair": "short"}
    bare, covered_eyes = (
        draw_parts(options_of({**values, "accessories": a}), 64, "#ffffff").mask for a in ("none", "sunglasses")
    )
    assert (bare == PARTS.index("eyes")).sum() > 8 and not (covered_eyes == PARTS.index("eyes")).any()
    assert not (bare == PARTS.index("accessories")).any() and (covered_eyes == PARTS.index("accessories")).sum() > 100


def test_every_part_occurs_and_several_are_drawn_as_each_alone():
    options = [options_of(values) for values in ROWS]
    many = draw_many_parts(options, 64, "#ffffff")
    assert set(np.unique(np.stack([drawn.mask for drawn in many]))) == set(range(len(PARTS)))
    assert np.array_equal(many[3].palette, draw_parts(options[3], 64, "#ffffff").palette)
