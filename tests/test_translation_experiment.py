"""The table of the translations, from runs as their processes leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments import translation as experiment
from lightning_avatars.evaluation.scores import SCHEMA

ROOT = Path(__file__).parents[1]
PAGE = "What people wrote.\n\n<!-- results: begin -->\nold\n<!-- results: end -->\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of rows without any, and a page."""
    folder = tmp_path / "translation"
    folder.mkdir()
    (folder / "README.md").write_text(PAGE)
    monkeypatch.setattr(experiment, "HERE", folder)
    monkeypatch.setattr(experiment, "hardware", lambda: "2 CPU cores (x86_64)")
    return folder


def entry(stage="test", name="translation", images=20_000, seconds=600.2, **scores):
    return {
        "stage": stage,
        "images_seen": images,
        "training": {"seconds": seconds, "images_per_second": images / seconds},
        "set": name,
        "seconds": 1.0,
        "scores": {f"{kind}_2k": score(value) for kind, value in scores.items()},
        "passport": {"images": 2000},
    }


def score(value, floor=None):
    return {"value": value, "interval": None, "floor": floor, "extractor": None}


def row(name, *sets):
    facts = {"name": name, "seed": 0, "hardware": "1 NVIDIA X", "sets": list(sets)}
    return experiment.ROWS[name]._asdict() | facts


class Processes:
    """In place of processes that train and test: leaves what these leave, and remembers their commands."""

    def __init__(self):
        self.commands = []

    def __call__(self, command, check, env):
        assert check and env["WANDB_MODE"] == "disabled"
        self.commands.append(command[3:])
        folder = Path(value(command, "--trainer.default_root_dir"))
        path = folder / "results.json"
        entries = json.loads(path.read_text())["results"] if path.exists() else []
        if command[3] == "fit":
            images = int(value(command, "--run.images"))
            (folder / "checkpoints").mkdir(parents=True)
            for seen in (images // 10, images):
                (folder / f"checkpoints/images_{seen:09d}.ckpt").touch()
            # a run that is stopped after its end and goes on is timed again
            entries += [entry("val", images=images // 2), entry("val", images=images), entry("val", seconds=9e9)]
            entries += [entry(name="of a shorter run that this one went on from", images=images // 2)]
        else:
            entries += [entry(psnr=29.675, fd_avatarnet=12.19, seconds=1.0), entry(name="translation_untranslated")]
        path.write_text(json.dumps({"schema": SCHEMA, "results": entries}))


def value(command, option):
    return command[command.index(option) + 1]


@pytest.fixture
def processes(here, monkeypatch):
    made = Processes()
    monkeypatch.setattr(experiment.subprocess, "run", made)
    monkeypatch.setattr(experiment, "held_out_previews", previews)
    return made


def previews(checkpoint):
    """Blue pictures of the newest checkpoint, red ones of another."""
    blue = "20000.ckpt" in checkpoint.name or "1000.ckpt" in checkpoint.name
    picture = torch.tensor([-1.0, -1.0, 1.0] if blue else [1.0, -1.0, -1.0])
    return {"translation": picture[None, None, :, None, None].expand(8, 3, 3, 4, 4)}


def test_a_row_is_trained_tested_and_written_once(here, processes, tmp_path):
    options = {"only": ["pix2pix_avatar_parts64"], "runs": tmp_path / "runs"}
    judges = {"perceptual": "alex", "segmenter": Path("parts.safetensors")}
    for _ in range(2):  # the second time it is there
        experiment.translation(**options, **judges)
    fit, test = processes.commands
    assert fit[:5] == ["fit", "--model", "pix2pix", "--data", "avatar_parts64"]
    assert [value(fit, f"--run.{name}") for name in ("images", "save_every")] == ["20000", "2000"]
    assert value(fit, "--resume") == "auto" and "--reconstruction.perceptual" not in fit
    stem = "pix2pix_avatar_parts64_20k_seed0"
    assert value(test, "--ckpt_path") == str(tmp_path / f"runs/{stem}/checkpoints/images_000020000.ckpt")
    assert test[-4:] == ["--reconstruction.perceptual", "alex", "--reconstruction.segmenter", "parts.safetensors"]
    written = json.loads((here / f"{stem}.json").read_text())
    assert [found["set"] for found in written["sets"]] == ["translation", "translation_untranslated"]
    assert {found["training"]["seconds"] for found in written["sets"]} == {600.2}, "that of the first end"
    with Image.open(here / f"{stem}_translation.png") as sheet:
        assert sheet.size == (8 * 6 + 2, 3 * 6 + 2), "eight pictures, three versions below each other"
        assert sheet.convert("RGB").getpixel((3, 3)) == (0, 0, 255), "of the newest checkpoint"
    page = (here / "README.md").read_text()
    assert page.startswith("What people wrote.\n") and "old" not in page
    assert "| translation | 2,000 | 29.68 | 12.2 |" in page


def test_rows_have_arguments_of_their_own_and_segmenters_judge_parts_alone(processes, tmp_path):
    experiment.translation(
        only=["cyclegan_avatar_styles32"], images=1000, seed=3, extractors="avatarnet,inception",
        segmenter=Path("parts"), runs=tmp_path / "runs",
    )  # fmt: skip
    fit, test = processes.commands
    assert fit[3:7] == ["--data", "avatar_styles64", "--data.resolution", "32"]
    assert [value(fit, option) for option in ("--run.images", "--seed_everything")] == ["1000", "3"]
    assert value(fit, "--trainer.default_root_dir") == str(tmp_path / "runs/cyclegan_avatar_styles32_1k_seed3")
    assert "--reconstruction.segmenter" not in test
    assert value(test, "--reconstruction.extractors") == "avatarnet,inception"


def test_a_row_that_is_not_there_is_refused(processes):
    with pytest.raises(ValueError, match="there is no row 'pix2pix': choose of pix2pix_avatar_parts64, "):
        experiment.translation(only=["pix2pix"])
    assert processes.commands == []


def test_each_row_has_a_table_of_the_scores_that_its_sets_have(here):
    Image.new("RGB", (4, 4)).save(here / "pix2pix_avatar_parts64_20k_seed0_translation.png")
    parts = entry() | {"scores": {"psnr_2k": score(29.675), "miou_2k": score(0.8189, 0.8284)}}
    rows = [
        row("pix2pix_avatar_parts64", parts, entry(name="translation_untranslated", psnr=24.6)),
        row("stargan_avatar_expressions64", entry(name="changes", changed=0.0496, kept=0.9687)),
    ]
    assert experiment.table(rows).splitlines() == [
        "### pix2pix on avatar_parts64, 20,000 images",
        "",
        "600 s, 33 images/s on 1 NVIDIA X, seed 0. "
        "[translation](pix2pix_avatar_parts64_20k_seed0_translation.png)",
        "",
        "| set | images | `psnr` | `miou` |",
        "|---|---|---|---|",
        "| translation | 2,000 | 29.68 | 0.819 (floor 0.828) |",
        "| translation_untranslated | 2,000 | 24.60 |  |",
        "",
        f"### stargan on avatar_expressions64, {rows[1]['images']:,} images",
        "",
        f"With `{' '.join(experiment.ROWS['stargan_avatar_expressions64'].further)}`.",
        "",
        "600 s, 33 images/s on 1 NVIDIA X, seed 0. ",
        "",
        "| set | images | `changed` | `kept` |",
        "|---|---|---|---|",
        "| changes | 2,000 | 5.0% | 96.9% |",
    ]  # fmt: skip


def test_the_page_is_made_of_the_rows_that_are_there():
    rows = [json.loads(path.read_text()) for path in sorted((ROOT / "experiments/translation").glob("*_seed*.json"))]
    page = (ROOT / "experiments/translation/README.md").read_text()
    assert rows and experiment.table(rows).strip() in page
