"""What StyleGAN2 begins slowly by: the table and the sheet, from runs as their processes leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.stylegan2 import beginning as experiment
from lightning_avatars.evaluation.scores import SCHEMA

PAGE = "What people wrote.\n\n<!-- beginning: begin -->\nold\n<!-- beginning: end -->\n"


def value(command, name):
    return command[command.index(name) + 1]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Processes that leave scores and sheets without training, and what they were told."""
    told = []

    def run(command, check, env):
        told.append(command)
        folder, images = Path(value(command, "--trainer.default_root_dir")), int(value(command, "--run.images"))
        scores = {"fd_avatarnet_5k": 100.0 + len(told), "precision_avatarnet_5k": 0.25, "recall_avatarnet_5k": 0.5}
        entry = {
            "set": "samples", "stage": "val", "images_seen": images, "training": {"images_per_second": 75.4},
            "scores": {name: {"value": number} for name, number in scores.items()}, "passport": {},
        }  # fmt: skip
        (folder / "previews").mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"schema": SCHEMA, "results": [entry]}))
        sheet = Image.new("RGB", (274, 274), "red")
        sheet.paste("blue", (0, 0, 274, 34))
        sheet.save(folder / "previews" / "samples_000000100.png")

    monkeypatch.setattr(experiment.subprocess, "run", run)
    (tmp_path / "README.md").write_text(PAGE)
    for name, file in (("RESULTS", "results.json"), ("PAGE", "README.md"), ("SHEET", "beginning.png")):
        monkeypatch.setattr(experiment, name, tmp_path / file)
    return told


def test_each_way_is_trained_once_and_is_a_line_of_the_table_and_a_row_of_the_sheet(commands, tmp_path):
    experiment.beginning(100, 4, tmp_path / "runs")
    assert len(commands) == len(experiment.WAYS)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("What people wrote.") and "Seed 0, after 100 images of avatars32 in batches of 4" in page
    assert "| stylegan2 as it is | 101 | 0.250 | 0.500 | 75 |" in page
    with Image.open(tmp_path / "beginning.png") as sheet:
        assert sheet.size == (2 * 274, 2 * 34 * len(experiment.WAYS))
        assert set(sheet.convert("RGB").get_flattened_data()) == {(0, 0, 255)}, "only the first row of each"

    experiment.beginning(100, 4, tmp_path / "runs")
    assert len(commands) == len(experiment.WAYS), "nothing is trained twice"
    experiment.beginning(200, 4, tmp_path / "runs")
    assert len(commands) == 2 * len(experiment.WAYS)


def test_every_way_but_the_first_of_a_model_changes_something(commands, tmp_path):
    experiment.beginning(100, 4, tmp_path / "runs")
    told = {tuple(command[3:]) for command in commands}
    without_folders = {tuple(part for part in command if str(tmp_path) not in part) for command in told}
    assert len(without_folders) == len(experiment.WAYS)
