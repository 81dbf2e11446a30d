"""Sheets at intervals in images, and one of the end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from lightning_avatars.callbacks.preview import Preview, laid_out
from lightning_avatars.callbacks.run import Run
from lightning_avatars.images import sheet, to_bytes
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


class Wall(WandbLogger):
    """A dashboard that only remembers its pictures."""

    def __init__(self):
        self.pictures = []

    def log_image(self, key, images, step=None, **options):
        self.pictures.append((key, images, step))


def trainer(folder, loggers, rank=0):
    return SimpleNamespace(is_global_zero=rank == 0, default_root_dir=str(folder), loggers=loggers)


def test_the_sheet_goes_to_the_dashboard_at_the_images_seen(tmp_path):
    wall, module = Wall(), game()
    module.images_seen = 24
    Preview().write(trainer(tmp_path, [CSVLogger(tmp_path), wall]), module)
    path = tmp_path / "previews/samples_000000024.png"
    assert wall.pictures == [("preview/samples", [str(path)], 24)]
    with Image.open(path) as picture:
        expected = sheet(to_bytes(module.sample(torch.arange(64))), 8)
        assert np.array_equal(np.array(picture), expected.permute(1, 2, 0))


def test_only_the_first_process_shows_anything(tmp_path):
    wall = Wall()
    Preview().write(trainer(tmp_path, [wall], rank=1), game())
    assert wall.pictures == [] and sheets(tmp_path) == []


def test_versions_of_an_image_stand_below_each_other():
    images = torch.arange(10, dtype=torch.uint8).view(5, 2, 1, 1, 1)  # image 0 has versions 0 and 1
    flat, columns = laid_out(images, 3)
    assert columns == 3 and flat.flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 255, 7, 9, 255]
    flat, columns = laid_out(images, 8)
    assert columns == 5 and flat.flatten().tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    plain = images[:, 0]
    assert laid_out(plain, 3)[0] is plain
