"""Runs go on where they were, by the command line, and end as they would have without an interruption."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lightning_avatars.cli import main
from lightning_avatars.runs import hold
from tests.conf.faults import checkpoints, equal, start, statuses, training_state, wait_until
from tests.conf.training import TINY

QUIET = ["--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def last(number: int = 1, images: int = 64) -> dict[str, object]:
    return training_state(Path(f"runs/tiny/{number}/checkpoints/images_{images:09d}.ckpt"))


@pytest.mark.parametrize("how", [["--ckpt_path", "last"], ["--resume", "auto"]])
def test_a_run_goes_on_in_its_folder_and_dashboard_and_ends_with_the_same_weights(how):
    rows = ["--quality.enabled", "false", "--trainer.log_every_n_steps", "1"]
    main(["fit", "-c", TINY, *rows, "--run.images", "32"])
    run, dashboard = Path("runs/tiny/1"), Path("runs/tiny/1/wandb_id").read_text()
    main(["fit", "-c", TINY, *rows, *how])
    assert [folder.name for folder in Path("runs/tiny").iterdir()] == ["1"]
    assert (run / "wandb_id").read_text() == dashboard and len(dashboard) == 16
    seen = [
        [int(row["step"]) for row in csv.DictReader(path.open())] for path in sorted(run.glob("logs/*/metrics.csv"))
    ]
    assert [(min(steps), max(steps)) for steps in seen] == [(8, 32), (40, 64)], "a table for each start"
    main(["fit", "-c", TINY, *QUIET])
    assert equal(last(1), last(2))


def test_auto_starts_a_run_where_there_is_none_and_last_refuses(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", TINY, *QUIET, "--ckpt_path", "last"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "error: there is no checkpoint in runs/tiny to go on from" in said
    assert not Path("runs").exists()
    main(["fit", "-c", TINY, *QUIET, "--resume", "auto", "--run.images", "8"])
    assert checkpoints(Path("runs/tiny/1")) == ["images_000000008.ckpt"]


def test_a_start_that_fails_leaves_the_run_as_it_was():
    main(["fit", "-c", TINY, *QUIET, "--run.images", "32"])
    run = Path("runs/tiny/1")
    newest, before = str(run / "checkpoints/images_000000032.ckpt"), (run / "config.yaml").read_text()
    with pytest.raises(RuntimeError, match="size mismatch"):
        main(["fit", "-c", TINY, *QUIET, "--data.resolution", "16", "--ckpt_path", newest])
    assert (run / "config.yaml").read_text() == before and not list(run.glob("abandoned_*"))
    main(["fit", "-c", TINY, *QUIET, "--run.images", "40", "--ckpt_path", "last"])
    assert checkpoints(run)[-1] == "images_000000040.ckpt"


def test_what_another_process_saves_until_it_lets_go_of_a_run_is_gone_on_from(monkeypatch):
    def wait(folder):
        later.rename(run / "checkpoints" / later.name)
        hold(folder)

    run, later = Path("runs/tiny/1"), Path("images_000000064.ckpt")
    main(["fit", "-c", TINY, *QUIET])
    (run / "checkpoints" / later.name).rename(later)
    monkeypatch.setattr("lightning_avatars.cli.hold", wait)
    main(["fit", "-c", TINY, *QUIET, "--resume", "auto", "--run.images", "72"])
    assert checkpoints(run) == ["images_000000064.ckpt", "images_000000072.ckpt"]
    assert not list(run.glob("abandoned_*")), "it did not go on from 32"


def test_a_run_that_starts_anew_in_a_chosen_folder_is_another_one_in_its_scores_and_on_the_dashboard():
    mine = ["fit", "-c", TINY, "--preview.every", "0", "--trainer.default_root_dir", "mine"]
    main([*mine, "--run.images", "16"])
    dashboard = Path("mine/wandb_id").read_text()
    with pytest.warns(UserWarning, match=r"goes on from 0 images: .*wandb_id, results\.json"):
        main([*mine, "--run.images", "8", "--seed_everything", "7"])
    assert [scores(folder) for folder in ("mine", "mine/abandoned_1")] == [[8], [16]]
    assert Path("mine/abandoned_1/wandb_id").read_text() == dashboard != Path("mine/wandb_id").read_text()


def scores(folder: str) -> list[int]:
    return [result["images_seen"] for result in json.loads(Path(folder, "results.json").read_text())["results"]]


def test_another_seed_is_another_run(capsys):
    main(["fit", "-c", TINY, *QUIET, "--run.images", "32"])
    before, other = last(1, 32), ["fit", "-c", TINY, *QUIET, "--seed_everything", "1"]
    with pytest.raises(SystemExit) as stop:
        main([*other, "--ckpt_path", "last"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "error: runs/tiny/1 is another run: seed_everything is 0 there and 1 here" in said
    with pytest.warns(UserWarning, match="--resume auto starts a new run, for runs/tiny/1 is another run"):
        main([*other, "--resume", "auto", "--run.images", "32"])
    assert equal(last(1, 32), before) and checkpoints(Path("runs/tiny/2")) == ["images_000000032.ckpt"]
    main(["fit", "-c", TINY, *QUIET, "--resume", "auto"])
    assert checkpoints(Path("runs/tiny/1"))[-1] == "images_000000064.ckpt"
    assert checkpoints(Path("runs/tiny/2")) == ["images_000000032.ckpt"]


def test_what_says_how_to_train_may_change_while_a_run_goes_on():
    main(["fit", "-c", TINY, *QUIET, "--run.images", "32"])
    changed = ["--data.batch_size", "16", "--data.num_workers", "1", "--model.generator_optimizer.lr", "0.002"]
    changed += [
        "--run.save_every",
        "16",
        "--run.keep",
        "9",
        "--model.micro_batch",
        "8",
        "--trainer.precision",
        "32-true",
    ]
    main(["fit", "-c", TINY, *QUIET, *changed, "--ckpt_path", "last"])
    assert checkpoints(Path("runs/tiny/1")) == [f"images_{images:09d}.ckpt" for images in (32, 48, 64)]


def test_a_second_process_may_look_at_a_run_but_not_train_in_it(capsys):
    run = Path("runs/tiny/1")
    arguments = ["fit", "-c", TINY, *QUIET, "--run.images", "400000", "--run.save_every", "40", "--resume", "auto"]
    processes = start(arguments, Path.cwd())
    wait_until(lambda: list(run.glob("checkpoints/*.ckpt")), processes)
    os.kill(processes[0].pid, signal.SIGSTOP)  # it lives, and holds what it holds
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and f"process {processes[0].pid} on " in said and "runs/tiny/1, and two would" in said
    main(["validate", "-c", TINY, "--quality.enabled", "false", "--ckpt_path", "last"])
    processes[0].kill()
    assert statuses(processes) == [-signal.SIGKILL]
    seen = int(checkpoints(run)[-1][7:16])
    main([*arguments, "--run.images", str(seen + 8)])
    assert checkpoints(run)[-1] == f"images_{seen + 8:09d}.ckpt"


class Note(Callback):
    """Writes down which folder each process knows."""

    def setup(self, trainer, pl_module, stage):
        trainer.strategy.barrier()

    def on_fit_start(self, trainer, pl_module):
        Path(f"rank_{trainer.global_rank}.txt").write_text(trainer.default_root_dir)


def test_all_processes_know_the_folder_that_the_first_one_made():
    Path("runs/tiny/3").mkdir(parents=True)
    noted = ["--trainer.callbacks", '[{"class_path": "tests.test_resume.Note"}]', "--trainer.devices", "2"]
    assert statuses(start(["fit", "-c", TINY, *QUIET, *noted], Path.cwd(), world=2)) == [0, 0]
    assert [Path(f"rank_{rank}.txt").read_text() for rank in (0, 1)] == ["runs/tiny/4"] * 2
    assert sorted(folder.name for folder in Path("runs/tiny").iterdir()) == ["3", "4"]


def test_a_finished_run_trains_no_further():
    main(["fit", "-c", TINY, *QUIET])
    before = last()
    main(["fit", "-c", TINY, *QUIET, "--resume", "auto"])
    assert equal(last(), before) and checkpoints(Path("runs/tiny/1")) == [
        "images_000000032.ckpt", "images_000000064.ckpt"
    ]  # fmt: skip


def test_a_damaged_newest_checkpoint_costs_only_what_came_after_the_one_before():
    main(["fit", "-c", TINY, *QUIET])
    whole, newest = last(), Path("runs/tiny/1/checkpoints/images_000000064.ckpt")
    newest.write_bytes(newest.read_bytes()[:-3000])
    with pytest.warns(UserWarning, match=r"images_000000064\.ckpt is damaged"):
        main(["fit", "-c", TINY, *QUIET, "--ckpt_path", "last"])
    assert equal(last(), whole)


def test_a_damaged_checkpoint_that_was_named_is_refused_in_a_line(capsys):
    main(["fit", "-c", TINY, *QUIET])
    newest = Path("runs/tiny/1/checkpoints/images_000000064.ckpt")
    newest.write_bytes(newest.read_bytes()[:-3000])
    for command in (["fit", "-c", TINY, *QUIET], ["validate"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--ckpt_path", str(newest)])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in said
        assert f"{newest} can't be read as a checkpoint" in said and "images_000000032.ckpt is whole" in said


def test_a_run_killed_three_times_at_random_ends_as_if_nothing_had_happened():
    run = Path("runs/tiny/1")
    arguments = ["fit", "-c", TINY, *QUIET, "--run.images", "1600", "--run.save_every", "40", "--resume", "auto"]
    moments = random.Random(0)
    for _ in range(3):
        known = checkpoints(run)[-1:]
        further = moments.randint(1, 4)  # new checkpoints until the end comes
        processes = start(arguments, Path.cwd())
        for _ in range(further):
            wait_until(lambda known=known: checkpoints(run)[-1:] != known, processes)
            known = checkpoints(run)[-1:]
        processes[0].kill()
        assert statuses(processes) == [-signal.SIGKILL]
    assert "images_000001600.ckpt" not in checkpoints(run)
    main(arguments)
    main([*arguments[:-2]])
    assert equal(last(1, 1600), last(2, 1600))
