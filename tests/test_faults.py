"""Two processes: signals to one of them, one that is killed, and a run that goes on from either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lightning_avatars import checkpoints as module_of_checkpoints
from lightning_avatars.callbacks.progress import ImageProgress
from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import images_of, read_checkpoint
from lightning_avatars.cli import main
from lightning_avatars.families.adversarial import Adversarial
from tests.conf.faults import SECONDS, checkpoints, equal, slurm, start, statuses, torchrun, training_state, wait_until
from tests.conf.training import TINY

ROOT = Path(__file__).parents[1]
LONG = ["--run.images", "400000", "--run.save_every", "800", "--run.keep", "1"]
ARGUMENTS = ["fit", "-c", TINY, "--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]
TWO = [*ARGUMENTS, "--trainer.devices", "2", "--resume", "auto"]
MOST_SECONDS = 60  # after which the other processes must have ended


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two processes that many things happen to."""
    return tmp_path_factory.mktemp("two") / "runs/tiny/1"


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGTERM), (0, signal.SIGUSR1)])
def test_a_signal_to_one_process_ends_both_with_a_checkpoint_of_the_last_batch(run, rank, number):
    work = run.parents[2]
    before = checkpoints(run)
    processes = start([*TWO, *LONG, "--trainer.default_root_dir", str(run)], work, world=2)
    wait_until(lambda: checkpoints(run) not in ([], before), processes)
    os.kill(processes[rank].pid, number)
    told = time.monotonic()
    assert statuses(processes) == [128 + number] * 2
    assert time.monotonic() - told < MOST_SECONDS
    (newest,) = checkpoints(run)
    seen = int(newest.removeprefix("images_").removesuffix(".ckpt"))
    assert seen % 64 == 0, "they tell each other after every 8th batch"


def test_a_run_of_two_that_was_told_to_end_twice_goes_on_as_one_that_was_not(run, tmp_path, monkeypatch):
    (newest,) = checkpoints(run)
    images = int(newest.removeprefix("images_").removesuffix(".ckpt")) + 80
    monkeypatch.chdir(tmp_path)
    further = ["--run.images", str(images), "--run.save_every", "0"]
    main([*ARGUMENTS, *further, "--trainer.default_root_dir", str(run), "--ckpt_path", "last"])
    main([*ARGUMENTS, *further])
    name = f"checkpoints/images_{images:09d}.ckpt"
    gone_on, whole = (training_state(path)["state_dict"] for path in (run / name, Path("runs/tiny/1") / name))
    tensors = [key for key in whole if isinstance(whole[key], torch.Tensor)]
    assert gone_on["_extra_state"]["images_seen"] == images
    for key in tensors:  # on one process sums are rounded otherwise than on two
        torch.testing.assert_close(gone_on[key], whole[key], rtol=1e-2, atol=1e-3)


class Launched(NamedTuple):
    """A run of two processes of which Lightning started the second."""

    first: subprocess.Popen[bytes]
    second: int
    folder: Path

    def said(self) -> str:
        return (self.folder / "said.txt").read_text()


@pytest.fixture
def launched(tmp_path):
    command = [sys.executable, "-m", "lightning_avatars", *ARGUMENTS, *LONG]
    command += ["--trainer.devices", "2", "--data.num_workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with Path(tmp_path / "said.txt").open("w") as said:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=said, start_new_session=True)
    run, deadline = tmp_path / "runs/tiny/1", time.monotonic() + SECONDS
    while not checkpoints(run) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    if not children.is_file():
        first.kill()
        pytest.skip("finding the second process needs /proc")
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes() for pid in children.read_text().split()}
    (second,) = (pid for pid, variables in environments.items() if b"LOCAL_RANK=1" in variables)
    yield Launched(first, second, tmp_path)
    with suppress(ProcessLookupError):
        os.killpg(first.pid, signal.SIGKILL)


def wait_for_end(process: int) -> None:
    """Wait until a process that is not one's own child is gone."""
    deadline = time.monotonic() + MOST_SECONDS
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("told", ["first", "second", "group"])
def test_a_signal_to_processes_that_lightning_started_ends_all_with_a_checkpoint_and_one_status(launched, told):
    if told == "group":
        os.killpg(launched.first.pid, signal.SIGTERM)
    else:
        os.kill(launched.first.pid if told == "first" else launched.second, signal.SIGTERM)
    assert launched.first.wait(MOST_SECONDS) == 128 + signal.SIGTERM, launched.said()
    wait_for_end(launched.second)
    (newest,) = checkpoints(launched.folder / "runs/tiny/1")
    assert int(newest[7:-5]) % 64 == 0 and "Traceback" not in launched.said()


def test_the_second_process_ends_when_the_first_is_killed(launched):
    launched.first.kill()
    launched.first.wait()
    wait_for_end(launched.second)


def test_a_process_that_only_waits_ends_when_its_launcher_is_killed():
    script = """
import os, subprocess, sys, time
from lightning_avatars.launch import live_with_launcher
live_with_launcher()
if "LOCAL_RANK" not in os.environ:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
print("ready", flush=True)
time.sleep(600)
"""
    command, environment = [sys.executable, "-c", script], os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert [first.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    first.kill()
    assert first.stdout.read() == "", "the pipe is closed once both have ended"
    first.wait()


def test_a_killed_process_ends_the_other_and_says_why(launched):
    os.kill(launched.second, signal.SIGKILL)
    assert launched.first.wait(MOST_SECONDS) != 0
    assert "Connection" in launched.said() or "terminated with code -9" in launched.said()
    run = launched.folder / "runs/tiny/1"
    (newest,) = checkpoints(run)
    assert training_state(run / "checkpoints" / newest)["global_step"] > 0


def test_a_job_of_slurm_that_was_told_to_end_goes_on_and_equals_a_run_on_two_nodes(tmp_path):
    job, nodes = tmp_path / "job", tmp_path / "nodes"
    job.mkdir(), nodes.mkdir()
    processes = start([*TWO, *LONG], job, 2, cluster=slurm)
    wait_until(lambda: checkpoints(job / "runs/tiny/1"), processes)
    for process in processes:  # as sbatch --signal=USR1@120 does
        os.kill(process.pid, signal.SIGUSR1)
    assert statuses(processes) == [128 + signal.SIGUSR1] * 2
    (newest,) = checkpoints(job / "runs/tiny/1")
    further = ["--run.images", f"{int(newest[7:-5]) + 80}", "--run.save_every", "800"]
    assert statuses(start([*TWO, *further], job, 2, cluster=slurm)) == [0, 0]
    apart = ["--trainer.devices", "1", "--trainer.num_nodes", "2"]
    torchrun_on_two = partial(torchrun, nodes=2)
    assert statuses(start([*ARGUMENTS, *further, *apart], nodes, 2, cluster=torchrun_on_two)) == [0, 0]
    assert [folder.name for folder in (job / "runs/tiny").iterdir()] == ["1"]
    ends = [training_state(sorted(f.glob("runs/tiny/1/checkpoints/images_*.ckpt"))[-1]) for f in (job, nodes)]
    assert equal(*ends) and ends[0]["state_dict"]["_extra_state"]["images_seen"] == int(further[1])


def interrupt() -> None:
    """Let the second process be told to end when it validates."""

    def on_validation_start(run: Run, *arguments: object) -> None:
        whole(run, *arguments)
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    whole, Run.on_validation_start = Run.on_validation_start, on_validation_start


def test_two_processes_of_which_one_is_told_to_end_while_they_validate_finish_that_together_and_go_on(tmp_path):
    arguments = [*TWO, "--run.images", "160", "--run.validate_every", "64", "--run.save_every", "0", "--run.keep", "9"]
    assert statuses(start(arguments, tmp_path, 2, interrupt)) == [128 + signal.SIGTERM] * 2
    assert checkpoints(tmp_path / "runs/tiny/1") == ["images_000000064.ckpt"]
    states = read_checkpoint(tmp_path / "runs/tiny/1/checkpoints/images_000000064.ckpt")["callbacks"].values()
    assert [state["validation_due"] for state in states if "validation_due" in state] == [False]
    assert statuses(start(arguments, tmp_path, 2)) == [0, 0]
    assert checkpoints(tmp_path / "runs/tiny/1") == [f"images_{images:09d}.ckpt" for images in (64, 128, 160)]


def tell_early() -> None:
    """Let the second process be told to end after Lightning's handlers would have been set, and before any batch."""

    def on_train_start(progress: ImageProgress, *arguments: object) -> None:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        whole(progress, *arguments)

    whole, ImageProgress.on_train_start = ImageProgress.on_train_start, on_train_start


def test_a_signal_to_one_process_before_the_first_batch_ends_both(tmp_path):
    assert statuses(start([*TWO, *LONG], tmp_path, 2, tell_early)) == [128 + signal.SIGTERM] * 2
    assert checkpoints(tmp_path / "runs/tiny/1") == []


def see_late() -> None:
    """Let the second process see a folder as it was before the newest checkpoint came."""

    def by_age(folder: Path) -> list[Path]:
        return [path for path in whole(folder) if images_of(path) < 64]

    whole = module_of_checkpoints.by_age
    if os.environ["RANK"] == "1":
        module_of_checkpoints.by_age = by_age


def test_processes_that_see_different_checkpoints_all_say_so_and_train_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(ARGUMENTS)
    before = checkpoints(tmp_path / "runs/tiny/1")
    assert statuses(start([*TWO, "--run.images", "128"], tmp_path, 2, see_late)) == [2, 2]
    for rank, own in enumerate((64, 32)):
        said = (tmp_path / f"said_{rank}.txt").read_text()
        assert "error: processes would go on from different checkpoints" in said and "Traceback" not in said
        assert f"the first after 64 images with seed 0, this one after {own} with 0" in said
    assert checkpoints(tmp_path / "runs/tiny/1") == before


def poison() -> None:
    """Let the second process's weights become no numbers, once."""

    def training_step(module: Adversarial, *arguments: object) -> None:
        whole(module, *arguments)
        if os.environ["RANK"] == "1" and module.images_seen == 88 and not spoilt:
            spoilt.append(True)
            with torch.no_grad():
                next(module.generator.parameters()).fill_(torch.nan)

    whole, spoilt = Adversarial.training_step, []
    Adversarial.training_step = training_step


def test_numbers_that_are_none_on_one_process_lead_all_back_to_the_same_checkpoint_and_on(tmp_path):
    back = ["--guard.every", "8", "--guard.rollbacks", "1", "--run.images", "160", "--run.save_every", "32"]
    assert statuses(start([*ARGUMENTS, "--trainer.devices", "2", *back], tmp_path, 2, poison)) == [0, 0]
    said = (tmp_path / "said_0.txt").read_text()
    assert said.count("going back to") == 1 and "images_000000064.ckpt" in said
    assert checkpoints(tmp_path / "runs/tiny/1") == ["images_000000128.ckpt", "images_000000160.ckpt"]
