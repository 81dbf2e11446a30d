"""Where a run's folder is, and which checkpoint it goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jsonargparse import Namespace

from lightning_avatars.checkpoints import write
from lightning_avatars.runs import (
    RUN_FOLDER,
    claimed,
    continued,
    discard_empty_run,
    experiment_name,
    run_folder,
    run_of,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_FOLDER, raising=False)


def save(run: int | str, images: int) -> str:
    path = Path(f"runs/tiny/{run}/checkpoints/images_{images:09d}.ckpt")
    write({"images": images}, path, None)
    return str(path)


def test_last_is_the_newest_checkpoint_of_the_newest_run():
    save(2, 900)
    save(10, 8)
    newest = save(10, 16)
    save("other", 1000)
    assert continued("last", "never", "tiny", None) == continued(None, "auto", "tiny", None) == newest


def test_a_newest_run_without_a_checkpoint_is_passed_over():
    saved = save(1, 8)
    Path("runs/tiny/2/checkpoints").mkdir(parents=True)
    assert continued("last", "never", "tiny", None) == saved


def test_newest_is_by_time_for_a_run_may_have_gone_back():
    for age, images in enumerate((64, 8, 16)):
        os.utime(save(1, images), (age, age))
    assert continued("last", "never", "tiny", None) == "runs/tiny/1/checkpoints/images_000000016.ckpt"


def test_a_folder_that_was_chosen_is_the_only_one_that_is_looked_at():
    save(1, 8)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in elsewhere"):
        continued("last", "never", "tiny", "elsewhere")
    assert continued(None, "auto", "tiny", "elsewhere") is None
    assert continued("last", "never", "other", "runs/tiny/1") == "runs/tiny/1/checkpoints/images_000000008.ckpt"


def test_what_was_named_or_not_asked_for_is_left_as_it_is():
    save(1, 8)
    assert continued(None, "never", "tiny", None) is None
    assert continued("mine.ckpt", "auto", "tiny", None) == "mine.ckpt"


def test_a_run_goes_on_in_the_folder_of_its_checkpoint():
    checkpoint = save(3, 8)
    assert run_of(Path(checkpoint)) is None
    Path("runs/tiny/3/config.yaml").write_text("")
    assert run_folder("tiny", checkpoint) == run_of(Path(checkpoint)) == Path("runs/tiny/3")


def test_new_folders_count_up_and_are_never_shared():
    assert [run_folder("tiny", None) for _ in range(2)] == [Path("runs/tiny/1"), Path("runs/tiny/2")]
    Path("runs/tiny/7").mkdir()
    assert run_folder("tiny", None) == Path("runs/tiny/8") and os.environ[RUN_FOLDER] == "runs/tiny/8"
    assert not claimed(Path("runs/tiny/8"))


def test_further_processes_use_the_folder_of_the_first(monkeypatch):
    run_folder("tiny", None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_folder("tiny", None) == Path("runs/tiny/1")
    discard_empty_run()
    assert Path("runs/tiny/1").is_dir()
    monkeypatch.setenv("LOCAL_RANK", "0")
    discard_empty_run()
    assert not Path("runs/tiny/1").exists()


def test_an_experiment_is_named_after_its_files():
    model, data = Namespace(__path__="a/dcgan.yaml"), Namespace(__path__="b/avatars32.yaml")
    assert experiment_name(Namespace(config=["a.yaml", "b/mine.yaml"], model=model, data=data)) == "mine"
    assert experiment_name(Namespace(config=None, model=model, data=data)) == "dcgan_avatars32"
    assert experiment_name(Namespace(config=None, model=Namespace(), data=Namespace())) == "unnamed"
