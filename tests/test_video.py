"""Films hold the frames that they were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from lightning_avatars.video import save_video

FRAMES = torch.arange(5)[:, None, None, None].mul(50).expand(-1, 3, 15, 20).to(torch.uint8)


def test_a_gif_goes_round_and_keeps_every_frame(tmp_path):
    save_video(FRAMES, tmp_path / "films/film.gif")
    with Image.open(tmp_path / "films/film.gif") as film:
        assert film.n_frames == 5 and film.size == (20, 15) and film.info["loop"] == 0
        shades = [np.array(frame.convert("L")).mean() for frame in ImageSequence.Iterator(film)]
    assert shades == pytest.approx([0, 50, 100, 150, 200], abs=2)


def test_an_mp4_has_even_sides_and_every_frame(tmp_path):
    av = pytest.importorskip("av")
    save_video(FRAMES[:, :1], tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="gray") for frame in film.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (16, 20)
    assert [frame[:15].mean() for frame in frames] == pytest.approx([0, 50, 100, 150, 200], abs=6)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"films end in .gif or .mp4, got .*film.avi"):
        save_video(FRAMES, tmp_path / "film.avi")
