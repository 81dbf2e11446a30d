"""The command line, as a user types it: fit, go on, test, predict, sample."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image

from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main, message, processes
from lightning_avatars.evaluation.extractors import load_extractors
from lightning_avatars.matching import match_seed
from lightning_avatars.strategies import scatter
from tests.conf.training import TINY

ROOT = Path(__file__).parents[1]
QUICK = ["--run.images", "8", "--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]


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
    score, passport = result["scores"]["fd_avatarnet_20"], result["passport"]
    assert score["value"] > score["floor"] > 0 and score["interval"][0] < score["value"] < score["interval"][1]
    assert len(passport["extractors"][score["extractor"]]["sha256"]) == 64 and passport["images"] == 20


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


def test_a_checkpoint_scored_alone_has_the_scores_of_its_run(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    checkpoint = run / "checkpoints/images_000000064.ckpt"
    main(["evaluate", str(checkpoint), "--images", "20", "--extractors", "avatarnet", "--json", "alone.json"])
    assert "samples: 20 against" in capsys.readouterr().out
    (alone,) = json.loads(Path("alone.json").read_text())["results"]
    of_run = json.loads((run / "results.json").read_text())["results"][0]
    assert alone["stage"] == "evaluate" and alone["images_seen"] == of_run["images_seen"] == 64
    assert alone["scores"].keys() == of_run["scores"].keys()
    for name, score in alone["scores"].items():
        assert score["value"] == pytest.approx(of_run["scores"][name]["value"], rel=1e-4, abs=1e-6)
    main(["compare", str(run / "results.json"), "alone.json"])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "fd_avatarnet_20" in line)
    assert "~" in row


@pytest.mark.parametrize("given", ["avatarnet,mnistnet", "[avatarnet,mnistnet]", "[avatarnet, mnistnet]"])
def test_extractors_are_named_with_and_without_brackets(given, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", TINY, "--quality.extractors", given, "--print_config"])
    chosen = yaml.safe_load(capsys.readouterr().out)["quality"]["extractors"]
    assert [extractor.name for extractor in load_extractors(chosen)] == ["avatarnet", "mnistnet"]


def test_a_checkpoint_of_plain_values_rebuilds_its_module(run):
    path = run / "checkpoints/images_000000064.ckpt"
    module = load_module(path)
    assert module.images_seen == 64 and module.label_names == ["colour=red", "colour=blue", "large"]
    assert same(module.state_dict(), state(path))


def test_the_saved_configuration_runs_again(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["generator"]["init_args"]["resolution"] == 8
    assert config["data"]["seed"] == config["seed_everything"] == 0


def test_a_killed_run_goes_on_as_if_nothing_had_happened(run, tmp_path, monkeypatch):
    arguments = ["fit", "-c", TINY, "--run.images", "2400", "--run.save_every", "160", "--quality.enabled", "false"]
    command = [sys.executable, "-m", "lightning_avatars", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "runs/tiny/1/checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*.ckpt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    newest = max(checkpoints.glob("*.ckpt"))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--ckpt_path", str(newest)])
    main(arguments)
    assert same(
        state(checkpoints / "images_000002400.ckpt"), state(Path("runs/tiny/2/checkpoints/images_000002400.ckpt"))
    )


@pytest.mark.parametrize("name", ["demo", "wgan_gp_avatars32", "r3gan_avatars32"])
def test_shipped_experiments_train_from_any_folder(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.dataset.count", "300", "--run.images", "320", "--quality.images", "20"]
    main(["fit", "-c", name, *few])
    (result,) = json.loads((tmp_path / f"runs/{name}/1/results.json").read_text())["results"]
    assert result["images_seen"] == 320 and result["scores"]["fd_avatarnet_20"]["value"] > 0


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
    one, two = (found["fd_avatarnet_20"]["value"] for found in scores)
    assert two == pytest.approx(one, rel=1e-2)


def error_of(args: list[str], capsys) -> str:
    """The one line that says what was wrong with a command line."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("error"))
    return line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "-c", "dcgan_avatar32"], "nearest names: dcgan_avatars32"),
        (["fit", "-c", TINY, "--model.critics", "0"], "critics must be at least 1, got 0"),
        (["fit", "-c", TINY, "--data.dataset", "x"], "data.dataset"),
        (["fit", "-c", TINY, "--data.batch_size", "0"], "resolution and batch_size must be at least 1, got 8 and 0"),
        (["fit", "-c", TINY, "--run.images", "0"], "run.images"),
        (["fit", "-c", TINY, "--modle.critics", "2"], "modle"),
        (["test", "--ckpt_path", "nowhere/a.ckpt"], "no config.yaml beside nowhere/a.ckpt"),
        (["sample", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["evaluate", "nowhere.ckpt"], "no checkpoint, folder or zip at nowhere.ckpt"),
        (["compare", "nowhere.json", "other.json"], "no file at nowhere.json"),
        (["fit", "-c", TINY, "--quality.extractors", "avatarnt"], "nearest names: avatarnet"),
    ],
)
def test_a_wrong_argument_is_named_without_a_traceback(tmp_path, monkeypatch, args, message, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(args, capsys)


def test_an_error_that_no_line_of_ours_raises_is_no_message_to_a_person():
    with pytest.raises(RuntimeError) as fault:  # as when another process has died: torch raises it, in a line of ours
        scatter(torch.zeros(3), [torch.zeros(2)])
    assert message(fault.value) is None
    with pytest.raises(ValueError, match="at least 1") as said:
        Run(images=0)
    assert str(message(said.value)).startswith("run.images and run.keep must be at least 1")


def test_no_arguments_name_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert all(
        command in said for command in ("fit", "test", "predict", "sample", "evaluate", "compare", "data", "weights")
    )


def folders(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("runs/*/*"))


def test_every_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        main(["fit", "-c", TINY, *QUICK])
    assert folders(tmp_path) == ["runs/tiny/1", "runs/tiny/2"]
    assert all((tmp_path / folder / "checkpoints/images_000000008.ckpt").is_file() for folder in folders(tmp_path))


def test_a_checkpoint_alone_is_enough_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", TINY, *QUICK, "--model.average_half_life", "7"])
    main(["fit", "--ckpt_path", "runs/tiny/1/checkpoints/images_000000008.ckpt", "--run.images", "24"])
    assert folders(tmp_path) == ["runs/tiny/1"]
    saved = yaml.safe_load((tmp_path / "runs/tiny/1/config.yaml").read_text())
    assert saved["model"]["init_args"]["average_half_life"] == 7 and saved["run"]["images"] == 24
    assert saved["quality"]["enabled"] is False and not (tmp_path / "runs/tiny/1/results.json").exists()
    gone_on = state(tmp_path / "runs/tiny/1/checkpoints/images_000000024.ckpt")
    main(["fit", "-c", TINY, *QUICK, "--model.average_half_life", "7", "--run.images", "24"])
    assert same(gone_on, state(tmp_path / "runs/tiny/2/checkpoints/images_000000024.ckpt"))


def test_a_start_that_fails_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["fit", "--model", "dcgan", "--data", "folder64", "--data.dataset.path", "nowhere", *QUICK]
    assert "nowhere" in error_of(args, capsys)
    assert folders(tmp_path) == []


def test_a_start_that_fails_leaves_earlier_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", TINY, *QUICK])
    error_of(["fit", "-c", TINY, *QUICK, "--data.batch_size", "0"], capsys)
    error_of(["sample", "nowhere.ckpt"], capsys)
    error_of(["fit", "-c", TINY, "--quality.extractors", "avatarnt", "--trainer.logger", "false"], capsys)
    assert folders(tmp_path) == ["runs/tiny/1"] and (tmp_path / "runs/tiny/1/config.yaml").is_file()


def test_a_plain_folder_of_pictures_can_be_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("faces").mkdir()
    for i in range(20):
        Image.new("RGB", (30, 20), (i, 9 * i, 3 * i)).save(f"faces/{i:02}.png")
    main(["data", "faces", "--data.resolution", "16", "--output", "look.png"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "faces at 16 x 16" in shown and "source sizes │ 30 x 20" in shown and "look.png" in shown
    with Image.open("look.png") as sheet:
        assert sheet.size == (12 * 18 + 2, 2 * 18 + 2)
    main(["data", "-c", "folder64", "--data.dataset.path", "faces", "--data.resolution", "16"])
    assert Path("runs/data/faces-16.png").read_bytes() == Path("look.png").read_bytes()


def test_a_resolution_that_the_data_overrides_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("large.yaml").write_text("model: {init_args: {generator: {init_args: {resolution: 16}}}}\n")
    with pytest.warns(UserWarning, match=r"TinyGenerator: resolution .*16.* data .*8"):
        main(["fit", "-c", TINY, "-c", "large.yaml", *QUICK])
    saved = yaml.safe_load(next(Path("runs/large").glob("*/config.yaml")).read_text())
    assert saved["model"]["init_args"]["generator"]["init_args"]["resolution"] == 8


R2 = "model: {init_args: {discriminator_terms: {r2: {class_path: lightning_avatars.terms.gradients.R2}}}}\n"


def test_terms_that_a_later_configuration_drops_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text(R2)
    with pytest.warns(UserWarning, match=r"discriminator_terms .*dropped r1"):
        main(["fit", "-c", TINY, "-c", "other.yaml", *QUICK])
    saved = yaml.safe_load(Path("runs/other/1/config.yaml").read_text())
    assert list(saved["model"]["init_args"]["discriminator_terms"]) == ["r2"]


def test_terms_of_a_models_own_file_are_named_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = yaml.safe_load(Path(TINY).read_text())
    Path("net.yaml").write_text(yaml.safe_dump(tiny.pop("model")))
    Path("rest.yaml").write_text(yaml.safe_dump(tiny))
    Path("other.yaml").write_text(R2)
    with pytest.warns(UserWarning, match=r"discriminator_terms .*dropped r1"):
        main(["fit", "--model", "net.yaml", "-c", "rest.yaml", "-c", "other.yaml", *QUICK])


def test_nothing_is_said_where_nothing_is_overridden_or_dropped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("both.yaml").write_text("model: {init_args: {critics: 2, generator: {init_args: {resolution: 8}}}}\n")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        main(["fit", "-c", TINY, "-c", "both.yaml", *QUICK])
    assert not [str(w.message) for w in said if "dropped" in str(w.message) or "resolution" in str(w.message)]


def test_the_seed_is_one_and_a_family_without_one_is_left_alone():
    config = Namespace(seed_everything=3, data=Namespace(seed=2), model=Namespace(init_args=Namespace(width=1)))
    with pytest.warns(UserWarning, match=r"data\.seed is 2"):
        match_seed(config)
    assert config.data.seed == 3 and config.model.init_args == Namespace(width=1)


def test_processes_are_counted(monkeypatch):
    assert processes("cpu", "auto") == 1
    assert processes("cpu", 2) == processes("cpu", "2") == processes("gpu", [0, 3]) == processes("gpu", "0,1") == 2
    assert processes("cpu", 1, 2) == processes("cpu", "auto", 2) == 2 and processes("gpu", [0, 3], 2) == 4
    monkeypatch.setenv("SLURM_NTASKS", "3")
    assert processes("cpu", 1) == 3
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # in a shell of SLURM's: Lightning starts the processes
    assert processes("cpu", 1) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes("cpu", "auto") == 4
