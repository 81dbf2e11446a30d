"""Sheets at intervals in images, and one of the end."""

from __future__ import annotations

from PIL import Image

from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.run import Run
from tests.conf.training import fit, game


def sheets(folder):
    return sorted(path.name for path in folder.glob("previews/*"))


def test_sheets_are_written_at_intervals_and_at_the_end(tmp_path):
    preview = Preview(every=24, columns=16)
    fit(game(), tmp_path, callbacks=[preview, Run(images=64, validate_every=0)])
    assert sheets(tmp_path) == [f"samples_{seen:09d}.png" for seen in (24, 48, 64)]
    assert preview.latest["samples"].name == "samples_000000064.png"
    with Image.open(preview.latest["samples"]) as sheet:
        assert sheet.size == (16 * 10 + 2, 4 * 10 + 2) and len(set(sheet.getdata())) > 20


def test_no_interval_means_no_sheets(tmp_path):
    fit(game(), tmp_path, callbacks=[Preview(every=0), Run(images=16, validate_every=0)])
    assert sheets(tmp_path) == []
