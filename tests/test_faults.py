"""Two processes: signals to one of them, one that is killed, and a run that goes on from either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_avatars.cli import main
from lightning_avatars.runs import RUN_FOLDER
from tests.conf.faults import checkpoints, start, statuses, training_state, wait_until
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


def test_a_killed_process_ends_the_other_and_says_why(tmp_path):
    command = [sys.executable, "-m", "lightning_avatars", *ARGUMENTS, *LONG, "--trainer.devices", "2"]
    environment = {key: value for key, value in os.environ.items() if key != RUN_FOLDER}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with Path(tmp_path / "said.txt").open("w") as said:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=said)
    run, deadline = tmp_path / "runs/tiny/1", time.monotonic() + 120
    while not checkpoints(run) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    if not children.is_file():
        first.kill()
        pytest.skip("finding the second process needs /proc")
    (second,) = map(int, children.read_text().split())
    os.kill(second, signal.SIGKILL)
    try:
        assert first.wait(MOST_SECONDS) != 0
    finally:
        first.kill()
    reason = (tmp_path / "said.txt").read_text()
    assert "Connection" in reason or "terminated with code -9" in reason
    (newest,) = checkpoints(run)
    assert training_state(run / "checkpoints" / newest)["global_step"] > 0
