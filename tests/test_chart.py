"""Charts: round numbers on axes, dashes, and lines where their values are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from experiments.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Panel, dashed, save_chart, short, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 200_000, [0, 50_000, 100_000, 150_000, 200_000]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.031, [0, 0.01, 0.02, 0.03, 0.04]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 61, [-20, 0, 20, 40, 60, 80]),
    ],
)
def test_ticks_are_round_and_hold_all_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_beside_axes_are_short():
    assert [short(value) for value in (0, 0.25, -0.5, 800, 20_000, 1_500)] == [
        "0",
        "0.25",
        "-0.5",
        "800",
        "20k",
        "1.5k",
    ]


def test_dashes_run_on_around_corners_and_cover_their_share():
    pieces = list(dashed([(0, 0), (10, 0), (10, 10)], (4, 2)))
    assert pieces[0] == [(0, 0), (4, 0)] and pieces[1] == [(6, 0), (10, 0)] and pieces[2] == [(10, 2), (10, 6)]
    assert sum(math.dist(*piece) for piece in pieces) == pytest.approx(4 + 4 + 4 + 2)


def test_a_line_is_drawn_where_its_values_are(tmp_path):
    flat = Panel("score", "images", [Line("red", [0, 100], [5, 5], "#ff0000")], (0, 10))
    rising = Panel("score", "images", [Line("blue", [0, 100], [0, 10], "#0000ff", (6, 3))], (0, 10))
    save_chart([flat, rising, flat], 2, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    assert pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3) and (pixels[0, 0] == 255).all()
    middle = TOP + (HEIGHT - BOTTOM - TOP) // 2
    for y in (middle, middle + HEIGHT):
        assert np.ptp(pixels[y, LEFT + 50], axis=0) > 200 and pixels[y, WIDTH - RIGHT - 50].argmax() == 0
    y, x = np.nonzero((pixels[TOP:HEIGHT, WIDTH:, 2] - pixels[TOP:HEIGHT, WIDTH:, 0]) > 150)
    assert np.corrcoef(x, y)[0, 1] < -0.99
    assert (pixels[HEIGHT:, WIDTH:] == 255).all()


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_a_panel_without_values_is_refused(tmp_path, values):
    with pytest.raises(ValueError, match="the panel 'score' needs values to draw, all finite"):
        save_chart([Panel("score", "", [Line("a", [0.0] * len(values), values, "#000000")])], 1, tmp_path / "a.png")
