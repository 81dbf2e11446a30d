"""The command line, as a user types it: fit, go on, test, predict, sample."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_avatars.cli import main, processes
from lightning_avatars.tools.checkpoints import load_module

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests/conf/tiny.yaml")


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict, b: dict) -> bool:
    tensors = [key for key in a if isinstance(a[key], torch.Tensor)]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in tensors)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("work")
    os.chdir(folder)
    main(["fit", "-c", TINY])
    yield folder / "runs/tiny/1"
    os.chdir(ROOT)


def test_a_run_keeps_everything_together(run):
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "checkpoints", "previews", "results.json", "logs"}
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["images_000000032.ckpt", "images_000000064.ckpt"]
    assert sorted(p.name for p in (run / "previews").iterdir()) == [
        "samples_000000032.png", "samples_000000064.png"
    ]  # fmt: skip
    with Image.open(run / "previews/samples_000000064.png") as sheet:
        assert sheet.size == (8 * 10 + 2, 8 * 10 + 2)


def test_results_carry_a_passport(run):
    (result,) = json.loads((run / "results.json").read_text())["results"]
    assert result["stage"] == "val" and result["images_seen"] == 64
    assert result["scores"]["fd_avatarnet_20"] > result["floor"]["fd_avatarnet_20"] > 0
    assert len(result["passport"]["extractor_sha256"]) == 64 and result["passport"]["images"] == 20


def test_the_axis_of_the_log_is_images_seen(run):
    with (run / "logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["step"]) == 64 and float(rows[-1]["val/fd_avatarnet_20"]) > 0


def test_metrics_and_previews_on_or_off_the_weights_are_the_same(run):
    main(["fit", "-c", TINY, "--quality.enabled", "false", "--preview.every", "0"])
    other = run.parent / "2/checkpoints/images_000000064.ckpt"
    assert same(state(other), state(run / "checkpoints/images_000000064.ckpt"))


def test_a_resumed_run_goes_on_in_its_folder_and_honours_the_command_line(run):
    main(["fit", "-c", TINY, "--run.images", "40"])
    half = max(run.parent.iterdir(), key=lambda folder: int(folder.name))
    (checkpoint,) = (half / "checkpoints").glob("*40.ckpt")
    main(["fit", "-c", TINY, "--ckpt_path", str(checkpoint), "--model.average_half_life", "1"])
    assert half == max(run.parent.iterdir(), key=lambda folder: int(folder.name))
    done = state(half / "checkpoints/images_000000064.ckpt")
    whole = state(run / "checkpoints/images_000000064.ckpt")
    live = [key for key in whole if key.startswith(("generator.", "discriminator."))]
    assert all(torch.equal(done[key], whole[key]) for key in live)
    assert not torch.equal(done["average.average.image.weight"], whole["average.average.image.weight"])


def test_a_checkpoint_alone_is_enough_to_test_predict_and_sample(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = run / "checkpoints/images_000000064.ckpt"
    main(["test", "--ckpt_path", str(checkpoint)])
    stages = [r["stage"] for r in json.loads((run / "results.json").read_text())["results"]]
    assert sorted(stages) == ["test", "val"]
    main(["predict", "--ckpt_path", str(checkpoint)])
    assert len(list((run / "predictions").glob("*.png"))) > 5
    main(["sample", str(checkpoint), "--count", "5", "--seed", "7", "--output", "drawn"])
    assert sorted(p.name for p in Path("drawn").iterdir()) == [f"seed_{s:06d}.png" for s in range(7, 12)] + [
        "sheet.png"
    ]


def test_a_checkpoint_of_plain_values_rebuilds_its_module(run):
    path = run / "checkpoints/images_000000064.ckpt"
    module = load_module(path)
    assert module.images_seen == 64 and module.label_names == ["colour=red", "colour=blue", "large"]
    assert same(module.state_dict(), state(path))


def test_the_saved_configuration_runs_again(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["generator"]["init_args"]["resolution"] == 8
    assert config["data"]["seed"] == config["seed_everything"] == 0


def test_two_devices_mean_phase_ddp_and_train_as_one(run, tmp_path):
    command = [sys.executable, "-m", "lightning_avatars", "fit", "-c", TINY, "--trainer.devices", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "runs/tiny").iterdir()
    one, two = (state(f / "checkpoints/images_000000064.ckpt") for f in (run, folder))
    torch.testing.assert_close(
        {k: v for k, v in two.items() if isinstance(v, torch.Tensor)},
        {k: v for k, v in one.items() if isinstance(v, torch.Tensor)},
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    scores = [json.loads((f / "results.json").read_text())["results"][0]["scores"] for f in (run, folder)]
    assert scores[1]["fd_avatarnet_20"] == pytest.approx(scores[0]["fd_avatarnet_20"], rel=1e-2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "-c", "dcgan_avatar32"], "dcgan_avatars32"),
        (["fit", "-c", TINY, "--model.critics", "0"], "critics must be at least 1"),
        (["fit", "-c", TINY, "--model.conditional", "true", "--data.dataset", "x"], "dataset"),
        (["test", "--ckpt_path", "nowhere/a.ckpt"], "config.yaml"),
        (["sample", "nowhere.ckpt"], "nowhere.ckpt"),
        (["fit", "-c", TINY, "--quality.extractor", "avatarnt"], "avatarnet"),
    ],
)
def test_a_wrong_argument_is_named_without_a_traceback(run, args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_processes_are_counted(monkeypatch):
    assert processes("cpu", "auto") == 1
    assert processes("cpu", 2) == processes("cpu", "2") == processes("gpu", [0, 3]) == processes("gpu", "0,1") == 2
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes("cpu", "auto") == 4
