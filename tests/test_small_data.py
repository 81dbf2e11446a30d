"""The experiment on 300 avatars: what is asked of runs and discriminators, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import small_data
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.splits import assign
from lightning_avatars.evaluation.scores import write_results
from lightning_avatars.networks.base import Verdict

SCORE = "fd_avatarnet_5k"
PAGE = Path(__file__).parents[1] / "experiments/small_data/README.md"


def point(seen, fd, train=1.0, held_out=0.5, samples=-1.0, p=None):
    values = {SCORE: fd, "precision_avatarnet_5k": 0.5, "recall_avatarnet_5k": 0.25, "copied_5k": 0.125}
    told = dict(zip(small_data.KINDS, (train, held_out, samples), strict=True))
    told = {kind: {"sign": max(-1.0, min(1.0, value)), "logit": value} for kind, value in told.items()}
    scores = {
        name: {"value": v, "interval": None if v is None else [v - 1, v + 1], "floor": 1.99}
        for name, v in values.items()
    }
    return {"images_seen": seen, "p": p, "shown": told, "plain": told, "scores": scores}


def row(*points):
    return {
        "hardware": "1 CPU cores (x86_64)",
        "pictures": {"train": 300, "val": 9721, "test": 9979},
        "reference": {"images": 9721},
        "training": {"images_per_second": 185.1},
        "points": list(points),
    }


ROWS = {
    "none": row(point(100, 60.0), point(200, 90.0, train=3.0, held_out=0.0)),
    "ada": row(point(100, 70.0, p=0.25), point(200, 50.0, p=0.5)),
}


def lines_of(text, name):
    return [line for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_each_variant_has_its_last_and_its_best_checkpoint():
    text = small_data.page(ROWS)
    last, best = lines_of(text, "none")[:2]
    assert last == (
        "| none | last | 200 | 90 [89, 91] | 0.500 | 0.250 | 0.125 | 1.00 | 0.00 | -1.00 | 0.75 | 0.75 |  | 185 |"
    )
    assert best.startswith("| none | best | 100 | 60 [59, 61] |")
    assert [line.split(" | ")[2] for line in lines_of(text, "ada")] == ["200", "200"]
    assert " | 0.50 | 185 |" in lines_of(text, "ada")[0]
    assert "against 9,721 held-out pictures; 300 to train on. As many real pictures score 1.99 (the floor)" in text
    table = [line for line in text.splitlines() if line.startswith("|") and "sheet" not in line]
    assert {line.count("|") for line in table[:6]} == {15} and {line.count("|") for line in table[6:]} == {3}


def test_a_diverged_generator_has_no_score_and_is_not_the_best():
    rows = {"none": row(point(100, 60.0), point(200, None))}
    text = small_data.page(rows)
    assert "| none | last | 200 | diverged |" in text and "| none | best | 100 | 60 " in text
    assert small_data.panels(rows)[0].lines[0].x == [100]


def test_overfitting_is_zero_for_equal_verdicts_and_one_where_held_out_pictures_look_made():
    assert small_data.overfitting(point(1, 1, train=2.0, held_out=2.0), "shown") == 0
    assert small_data.overfitting(point(1, 1, train=2.0, held_out=-1.0, samples=-1.0), "shown") == 1
    assert small_data.overfitting(point(1, 1, train=0.0, held_out=0.0, samples=0.0), "plain") == 0


def test_curves_compare_variants_and_show_each_ones_signs():
    score, recall, gap, none, ada = small_data.panels(ROWS)
    assert [(line.name, line.x, line.y) for line in score.lines] == [
        ("none", [100, 200], [60.0, 90.0]), ("ada", [100, 200], [70.0, 50.0]),
    ]  # fmt: skip
    assert [line.y for line in recall.lines] == [[0.25, 0.25]] * 2
    assert [line.y for line in gap.lines] == [[0.5, 3.0], [0.5, 0.5]]
    assert [line.name for line in none.lines] == ["train", "held out", "samples"] and none.between == (-1, 1)
    assert ada.lines[-1].name == "p" and ada.lines[-1].y == [0.25, 0.5]


def test_pictures_are_judged_in_whole_groups_and_as_shown(monkeypatch):
    class Bright:
        """A discriminator of brightness; the augmentation makes all darker."""

        device, sizes = torch.device("cpu"), []

        def discriminator(self, x):
            self.sizes.append(len(x))
            return Verdict([x.mean((1, 2, 3))])

        def augment(self, x, draws, stream):
            assert draws.total == len(x)
            return x - 1

    images = torch.full((250, 3, 4, 4), 0.5)
    module = Bright()
    assert small_data.mean_verdict(module, images, False) == {"sign": 1.0, "logit": 0.5}
    assert small_data.mean_verdict(module, images, True) == {"sign": -1.0, "logit": -0.5}
    assert module.sizes == 2 * [100, 100, 50]
    module.augment = None
    assert small_data.mean_verdict(module, images, True) == {"sign": 1.0, "logit": 0.5}


def test_the_split_has_300_training_pictures():
    shares = tuple(json.loads(small_data.SPLIT))
    assert sum(shares) == pytest.approx(1)
    random = np.random.default_rng(0).integers(0, 256, (20_000, 16), np.uint8)
    counts = np.bincount(assign(shares, random)) / len(random)
    assert counts == pytest.approx(shares, abs=0.01) and Avatars().count == 20_000


def test_a_run_is_finished_once_it_was_scored_at_its_end(tmp_path):
    assert not small_data.finished(tmp_path, 200)
    entry = {"stage": "val", "images_seen": 128, "set": "samples", "scores": {}, "passport": {}}
    write_results(tmp_path / "results.json", [entry])
    assert not small_data.finished(tmp_path, 200) and small_data.finished(tmp_path, 128)
    with pytest.raises(FileNotFoundError, match="has no checkpoint that was scored"):
        small_data.measured(tmp_path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "README.md").write_text("words\n<!-- results: begin -->\n<!-- results: end -->\nlast\n")
    monkeypatch.setattr(small_data, "HERE", folder)
    return folder


def test_what_is_known_is_not_trained_again_and_one_variant_can_be_chosen(here, monkeypatch, tmp_path):
    trained, sheets = [], []
    monkeypatch.setattr(small_data, "train", lambda variant, folder, **asked: trained.append((variant, asked)))
    monkeypatch.setattr(small_data, "measured", lambda folder: ROWS[folder.name.partition("_")[0]])
    monkeypatch.setattr(small_data, "by_age", lambda folder: [folder / "images_000000200.ckpt"])
    monkeypatch.setattr(small_data, "save_sheet_of", lambda path, sheet: sheets.append(sheet.name))
    asked = {"images": 200, "every": 100, "seed": 0}
    small_data.small_data(**asked, only=["ada"], runs=tmp_path)
    small_data.small_data(**asked, only=["none", "ada"], runs=tmp_path)
    small_data.small_data(**asked, only=["none", "ada"], runs=tmp_path)
    assert trained == [("ada", asked), ("none", asked)] and sheets == ["ada.png", "none.png"]
    assert list(json.loads((here / "results.json").read_text())) == ["none", "ada"]
    page = (here / "README.md").read_text()
    assert page.startswith("words\n") and page.endswith("last\n") and "| ada | best | 200 |" in page
    assert (here / "curves.png").is_file()
    small_data.small_data(images=400, every=100, only=["none"], runs=tmp_path)
    assert trained[-1] == ("none", asked | {"images": 400})


def test_settings_that_make_no_sense_are_refused(here):
    with pytest.raises(ValueError, match="images and every must be at least 1, got 0 and 5"):
        small_data.small_data(images=0, every=5)


def test_runs_keep_all_checkpoints_and_are_told_from_pictures_never_shown(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(small_data, "subprocess", SimpleNamespace(run=lambda command, **_: seen.append(command)))
    small_data.train("diffaugment", tmp_path, 1000, 100, 3)
    options = dict(zip(seen[0][4::2], seen[0][5::2], strict=True))
    assert options["--model.augment"].endswith(".DiffAugment") and options["--quality.reference"] == "val"
    assert int(options["--run.keep"]) > 10 and options["--run.save_every"] == options["--run.validate_every"] == "100"
    assert options["--data.dataset.split"] == small_data.SPLIT and options["--seed_everything"] == "3"


def test_the_page_has_its_part():
    assert "<!-- results: begin -->" in PAGE.read_text()
