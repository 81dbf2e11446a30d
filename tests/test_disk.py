"""Files are whole or not there, and a full disk costs files and not the run."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lightning_avatars import disk
from lightning_avatars.checkpoints import damage
from lightning_avatars.cli import main
from lightning_avatars.disk import put_in_place, spared
from tests.conf.faults import checkpoints, equal, training_state
from tests.conf.training import TINY


def test_a_file_is_replaced_and_its_temporary_name_is_gone(tmp_path):
    path, temporary = tmp_path / "a.txt", tmp_path / "a.part"
    path.write_text("old")
    temporary.write_text("new")
    put_in_place(temporary, path)
    assert path.read_text() == "new" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_the_content_reaches_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    steps = []
    rename = Path.replace
    monkeypatch.setattr(disk, "sync", lambda path: steps.append(path.name))
    monkeypatch.setattr(Path, "replace", lambda self, target: (steps.append("rename"), rename(self, target)))
    (tmp_path / "a.part").write_text("new")
    put_in_place(tmp_path / "a.part", tmp_path / "a.txt")
    assert steps == ["a.part", "rename", tmp_path.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_spared(number):
    with pytest.warns(UserWarning, match="THE DISK IS FULL: a picture COULD NOT BE WRITTEN"), spared("a picture"):
        raise OSError(number, os.strerror(number))


def test_other_errors_are_not_spared():
    with pytest.raises(PermissionError), spared("a picture"):
        raise PermissionError(errno.EACCES, "denied")


def test_whatever_is_wrong_is_spared_where_that_is_asked_for():
    with pytest.warns(UserWarning, match="THE DISK REFUSES: a file COULD NOT BE WRITTEN"), spared("a file", True):
        raise PermissionError(errno.EACCES, "denied")
    with pytest.raises(KeyError), spared("a file", True):
        raise KeyError


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("a small disk needs mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


class Filler(Callback):
    """Fills the disk of the run and makes room again.

    Args:
        full_from: Images after which the disk is full.
        full_to: Images after which it is not.
    """

    def __init__(self, full_from: int, full_to: int) -> None:
        self.full_from, self.full_to = full_from, full_to

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        filling = Path(trainer.default_root_dir) / "filling"
        if self.full_from <= pl_module.images_seen < self.full_to:
            with filling.open("ab", buffering=0) as file:
                for size in (65_536, 1):
                    try:
                        while True:
                            file.write(bytes(size))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
        elif filling.exists():
            filling.unlink()


def test_a_full_disk_costs_checkpoints_previews_and_logs_and_not_the_run(small_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    often = ["--run.images", "96", "--run.save_every", "8", "--preview.every", "8", "--trainer.log_every_n_steps", "1"]
    arguments = ["fit", "-c", TINY, *often, "--quality.enabled", "false"]
    filler = [{"class_path": "tests.test_disk.Filler", "init_args": {"full_from": 8, "full_to": 64}}]
    here = ["--trainer.default_root_dir", str(small_disk), "--trainer.callbacks", json.dumps(filler)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main([*arguments, *here])
    said = [str(warning.message) for warning in caught]
    lost = [text for text in said if "THE DISK IS FULL: the checkpoint" in text]
    assert len(lost) == 7 and "images_000000008.ckpt" in lost[0] and "No space left on device" in lost[0]
    assert any("THE DISK IS FULL: the preview" in text for text in said)
    assert any("THE DISK IS FULL: a table of logs" in text for text in said)
    assert checkpoints(small_disk) == ["images_000000088.ckpt", "images_000000096.ckpt"]
    with (small_disk / "logs/version_0/metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert sorted(set(steps)) == list(range(8, 97, 8)), "rows waited until there was room"
    assert all(damage(path) is None for path in (small_disk / "checkpoints").iterdir())
    main(arguments)
    whole = training_state(Path("runs/tiny/1/checkpoints/images_000000096.ckpt"))
    assert equal(training_state(small_disk / "checkpoints/images_000000096.ckpt"), whole)


def test_a_disk_that_stays_full_keeps_the_last_checkpoint_to_go_on_from(small_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--preview.every", "0", "--quality.enabled", "false", "--trainer.logger", "false"]
    arguments = ["fit", "-c", TINY, *few, "--trainer.default_root_dir", str(small_disk)]
    filler = [{"class_path": "tests.test_disk.Filler", "init_args": {"full_from": 40, "full_to": 1000}}]
    with pytest.warns(UserWarning, match="COULD NOT BE WRITTEN"):
        main([*arguments, "--trainer.callbacks", json.dumps(filler)])
    assert checkpoints(small_disk) == ["images_000000032.ckpt"]
    (small_disk / "filling").unlink()
    main([*arguments, "--ckpt_path", "last"])
    main(["fit", "-c", TINY, *few])
    whole = training_state(Path("runs/tiny/1/checkpoints/images_000000064.ckpt"))
    assert equal(training_state(small_disk / "checkpoints/images_000000064.ckpt"), whole)
