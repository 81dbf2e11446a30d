"""The table of the experiments, from rows as the runs leave them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SCORE = "fd_avatarnet_5k"


@pytest.fixture
def leaderboard(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("leaderboard", ROOT / "experiments/leaderboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TABLE", tmp_path / "README.md")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def scores(**values):
    return {
        name: {"value": value, "interval": [value - 1, value + 1], "floor": 1.234, "extractor": "avatarnet"}
        for name, value in values.items()
    }


def row(model="dcgan", data="avatars32", seed=0, score=10.0, name=SCORE, **facts):
    return {
        "model": model,
        "data": data,
        "seed": seed,
        "hardware": "2 CPU cores (x86_64)",
        "sheet": f"{model}_{data}_100k_seed{seed}.png",
        "images_seen": 100_000,
        "scores": scores(**{name: score, "precision_avatarnet_5k": 0.5}),
        "training": {"seconds": 200.0, "images_per_second": 500.0},
        "passport": {"reference": {"images": 14_000, "split": "train"}},
    } | facts


def test_a_row_of_one_seed(leaderboard):
    assert leaderboard.cells([row()], SCORE) == [
        "dcgan", "10 [9, 11]", "0.500", "", "", "", "", "", "200", "500", "1",
        "[sheet](results/dcgan_avatars32_100k_seed0.png)",
    ]  # fmt: skip


def test_a_row_of_several_seeds_has_means_and_a_sample_deviation(leaderboard):
    found = [scores(**{SCORE: score, "accuracy_5k": share}) for score, share in [(10.0, 0.5), (12.0, 0.6), (14.0, 0.7)]]
    runs = [{"seconds": 100.0 * i, "images_per_second": 1000.0 / i} for i in (1, 2, 4)]
    group = [row(seed=i, scores=found[i], training=runs[i]) for i in range(3)]
    assert leaderboard.cells(group, SCORE)[1:11] == ["12 ± 2", "", "", "", "", "", "60.0%", "233", "583", "3"]


def lines_of(text, model):
    return [line for line in text.splitlines() if line.startswith(f"| {model} ")]


def test_models_are_ordered_by_their_mean_score_and_the_floor_is_named(leaderboard):
    rows = [row("wgan", score=30.0), row("dcgan", score=8.0), row("dcgan", seed=1, score=28.0), row("gan", score=20.0)]
    text = leaderboard.table(rows)
    order = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert order == ["| model", "| dcgan", "| gan", "| wgan"]
    assert (
        lines_of(text, "dcgan")[0].startswith("| dcgan | 18 ± 14 |") and " | 2 | [sheet]" in lines_of(text, "dcgan")[0]
    )
    assert text.startswith("### avatars32, 100,000 images\n")
    assert f"`{SCORE}` with its 95 % interval, against 14,000 pictures of the train split" in text
    assert f"(the floor): {SCORE} 1.23, precision 1.23. Made on 2 CPU cores (x86_64)." in text.replace("\n", " ")


def test_every_dataset_and_number_of_images_has_its_own_table_and_score(leaderboard):
    other = "fd_mnistnet_5k"
    rows = [row(data="mnist32", score=3.0, name=other), row(), row(images_seen=25_000, hardware="1 NVIDIA X")]
    text = leaderboard.table(rows)
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### avatars32, 25,000 images", "### avatars32, 100,000 images", "### mnist32, 100,000 images"]
    first, second, third = text.split("### ")[1:]
    assert "1 NVIDIA X" in first and "1 NVIDIA X" not in second
    assert f"| model | `{other}` |" in third and SCORE not in third and "| dcgan | 3 [2, 4] |" in third
    assert len(lines_of(text, "dcgan")) == 3


def test_tables_are_markdown_of_equal_columns(leaderboard):
    rows = [line for line in leaderboard.table([row(), row("gan")]).splitlines() if line.startswith("|")]
    assert len(rows) == 4 and {line.count("|") for line in rows} == {13}


def test_inceptions_distance_has_a_column_and_says_what_it_is_of(leaderboard):
    passport = {"images": 2_000, "reference": {"images": 2_960, "split": "val"}}
    found = [{"scores": scores(fid_2k=value), "passport": passport} for value in (40.0, 44.0)]
    rows = [row(seed=seed, inception=found[seed]) for seed in range(2)]
    assert leaderboard.cells(rows, SCORE)[6] == "42" and leaderboard.cells([row()], SCORE)[6] == ""
    text = leaderboard.table([row("gan"), *rows])
    assert "FID: of 2,000 samples against 2,960 pictures of the val split, floor 1.23." in text
    assert "FID: " not in leaderboard.table([row()])


def test_a_row_is_judged_once_by_the_last_checkpoint_of_its_run(leaderboard, tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "RUNS", tmp_path / "runs")
    entry, judged = leaderboard.Entry("dcgan", "avatars32", 0, 100_000), []
    entry.row.parent.mkdir()
    entry.row.write_text(json.dumps(row()))
    with pytest.raises(FileNotFoundError, match=r"dcgan_avatars32_100k_seed0 has no checkpoint .* remove its row"):
        leaderboard.judge(entry, 2_000)
    folder = tmp_path / "runs/dcgan_avatars32_100k_seed0/checkpoints"
    folder.mkdir(parents=True)
    for images in (50_000, 100_000):
        (folder / f"images_{images:09d}.ckpt").touch()

    def found(checkpoint, images):
        judged.append((checkpoint.name, images))
        return {"scores": scores(fid_2k=40.0)}

    monkeypatch.setattr(leaderboard, "in_inceptions_features", found)
    for _ in range(2):
        leaderboard.judge(entry, 2_000)
    assert judged == [("images_000100000.ckpt", 2_000)]
    assert json.loads(entry.row.read_text()) == row() | {"inception": {"scores": scores(fid_2k=40.0)}}


def test_a_variant_is_a_row_of_its_own_and_is_explained(leaderboard):
    text = leaderboard.table([row(), row(score=5.0, variant="b16", further=["--data.batch_size=16"])])
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| dcgan")] == [
        "| dcgan, b16",
        "| dcgan",
    ]
    assert f"b16: {leaderboard.VARIANTS['b16'].meaning}." in text and "after images" not in text
    assert leaderboard.VARIANTS["b16"].meaning not in leaderboard.table([row()])


def test_a_variants_arguments_are_added_and_know_the_number_of_images(leaderboard):
    plain = leaderboard.Entry("r3gan", "avatars32", 0, 200_000)
    entry = plain._replace(variant="b16")
    assert plain.further == [] and plain.row.name == "r3gan_avatars32_200k_seed0.json"
    assert entry.row.name == "r3gan_avatars32_200k_b16_seed0.json" and entry.further[0] == "--data.batch_size=16"
    assert entry._replace(model="dcgan").further == entry.further[:2]
    assert "IMAGES" not in " ".join(entry.further) and yaml.safe_load(entry.further[-1].partition("=")[2]) == {
        "class_path": "lightning_avatars.schedules.Cosine", "init_args": {"start": 1.0, "end": 0.1, "last": 200_000},
    }  # fmt: skip
    with pytest.raises(ValueError, match="no variant 'b17': choose of b16, b16 bf16"):
        leaderboard.leaderboard(["dcgan"], variant="b17")


def test_how_a_score_went_on(leaderboard):
    rows = [row(course={"50000": 20.0, "100000": 10.0}), row("gan", score=5.0, course={"100000": 5.0}), row("wgan")]
    table = leaderboard.table(rows).split("after images")[1].splitlines()
    assert table[0] == " | 50,000 | 100,000 |" and table[2:4] == [
        "| gan, seed 0 |  | 5 |",
        "| dcgan, seed 0 | 20 | 10 |",
    ]


def encoder(model, psnr, **likelihood):
    seen = {"images": 2000, "split": "val"}
    sets = {"reconstruction": {"scores": scores(psnr_2k=psnr, fd_avatarnet_2k=3.0), "passport": {"reference": seen}}}
    sets |= {"likelihood": {"scores": scores(**likelihood), "passport": {}}} if likelihood else {}
    return row(model, sets=sets, reconstructions=f"{model}_reconstructions.png")


def test_models_that_encode_have_a_table_of_their_own(leaderboard):
    words = encoder("vqgan", 20.0, codes_used_1k=0.987)
    rows = [
        row("gan"),
        words,
        encoder("vae", 30.0, bpd_elbo_1k=1.25, bpd_iwae10_1k=1.2, rate_1k=99.6, rate_level0_1k=1),
    ]
    lines = leaderboard.reconstructions(rows).splitlines()
    assert lines[0] == "### avatars32, 100,000 images: reconstructions"
    assert lines[2] == "Of 2,000 pictures of the val split."
    assert {line.count("|") for line in lines[4:] if line} == {12}
    assert lines[6:8] == [
        "| vae | 30.0 |  |  | 3 | 1.20 | 1.25 | 99.6 |  | 1 | [sheet](results/vae_reconstructions.png) |",
        "| vqgan | 20.0 |  |  | 3 |  |  |  | 98.7% | 1 | [sheet](results/vqgan_reconstructions.png) |",
    ]


def test_a_prior_says_how_long_its_first_stage_took(leaderboard):
    assert leaderboard.cells([row("vqgan_prior", first_stage_seconds=123.4)], SCORE)[8] == "123 + 200"


class Fits:
    """In place of a process that trains: leaves what a run leaves, and remembers its command."""

    def __init__(self):
        self.commands = []

    def __call__(self, command, **options):
        self.commands.append(command)
        folder = Path(command[command.index("--trainer.default_root_dir") + 1])
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints/images_000100032.ckpt").touch()
        (folder / "previews").mkdir(exist_ok=True)
        for name in ("samples", "reconstructions"):
            Image.new("RGB", (4, 4)).save(folder / f"previews/{name}_000100032.png")
        facts = {"images_seen": 100_032, "training": {"seconds": 7.0, "images_per_second": 1.0}, "passport": {}}
        sets = ["samples"] + ["reconstruction"] * ("vqgan" in command)
        results = [facts | {"stage": "val", "set": name, "scores": scores(**{SCORE: 5.0})} for name in sets]
        (folder / "results.json").write_text(json.dumps({"schema": 2, "results": results}))


def test_a_prior_begins_with_a_first_stage_that_saw_as_many_images(leaderboard, monkeypatch, tmp_path):
    fits = Fits()
    monkeypatch.setattr(leaderboard.subprocess, "run", fits)
    monkeypatch.setattr(leaderboard, "RUNS", tmp_path / "runs")
    target = leaderboard.RESULTS / "vqgan_prior_avatars32_100k_seed0.json"
    for _ in range(2):  # the second time the first stage is there
        leaderboard.train(leaderboard.Entry("vqgan_prior", "avatars32", 0, 100_000))
    assert [command[command.index("--model") + 1] for command in fits.commands] == ["vqgan", *["vqgan_prior"] * 2]
    checkpoint = tmp_path / "runs/vqgan_avatars32_100k_seed0/checkpoints/images_000100032.ckpt"
    assert fits.commands[1][fits.commands[1].index("--model.first_stage") + 1] == str(checkpoint)
    found, first = (json.loads(path.read_text()) for path in (target, target.with_name(f"{checkpoint.parts[-3]}.json")))
    assert found["first_stage_seconds"] == 7.0 and "sets" not in found and found["scores"][SCORE]["value"] == 5.0
    assert first["sets"]["reconstruction"]["scores"][SCORE]["value"] == 5.0
    assert (leaderboard.RESULTS / first["reconstructions"]).is_file() and (
        leaderboard.RESULTS / found["sheet"]
    ).is_file()


def test_a_recognisers_test_accuracies(leaderboard, tmp_path):
    found = scores(**{"accuracy": 0.9876, "accuracy/hair": 0.991, "accuracy/eyes": 0.5})
    results = [
        {"stage": "val", "images_seen": 300_032, "scores": scores(accuracy=0.1)},
        {"stage": "test", "images_seen": 300_032, "scores": found},
    ]
    path = tmp_path / "avatarnet.json"
    path.write_text(json.dumps({"results": results}))
    assert leaderboard.recogniser(path) == "- `avatarnet`, 300,032 images: hair 99.1%, eyes 50.0%; mean 98.8%."


def test_rows_that_are_there_are_not_trained_again(leaderboard, monkeypatch):
    (leaderboard.RESULTS).mkdir()
    leaderboard.TABLE.write_text((ROOT / "experiments/README.md").read_text())
    for name in ("avatarnet", "mnistnet"):
        text = (ROOT / f"experiments/results/{name}.json").read_text()
        (leaderboard.RESULTS / f"{name}.json").write_text(text)
    trained = []

    def train(entry):
        trained.append(entry[:5])
        entry.row.write_text(json.dumps(row(entry.model, entry.data, entry.seed)))

    monkeypatch.setattr(leaderboard, "train", train)
    arguments = {"models": ["gan", "dcgan"], "data": ["mnist32"], "images": 100_000, "paths": {"mnist32": "digits"}}
    leaderboard.leaderboard(**arguments)
    assert trained == [(model, "mnist32", 0, 100_000, "digits") for model in ("gan", "dcgan")]
    leaderboard.leaderboard(**arguments, seeds=[0, 1])
    assert [run[:3] for run in trained[2:]] == [(model, "mnist32", 1) for model in ("gan", "dcgan")]
    page = leaderboard.TABLE.read_text()
    assert page.count("### mnist32, 100,000 images") == 1 and page.count("- `avatarnet`, ") == 1
    assert page.rstrip().endswith((ROOT / "experiments/README.md").read_text().rstrip().splitlines()[-1])
