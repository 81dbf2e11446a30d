"""Where a run's folder is, and which checkpoint it goes on from."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from lightning_avatars import runs
from lightning_avatars.checkpoints import read_checkpoint, write
from lightning_avatars.runs import (
    LOCK,
    claimed,
    continued,
    discard_empty_run,
    experiment_name,
    hold,
    rank,
    release,
    run_folder,
    run_of,
    set_aside,
)
from tests.conf.faults import checkpoints
from tests.test_checkpoints import saved

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "made", None)
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    yield
    release()


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


def configured(run: int | str, images: int, **changes: object) -> str:
    path = save(run, images)
    Path(f"runs/tiny/{run}/config.yaml").write_text(yaml.safe_dump(config(**changes)))
    return path


def config(**changes: object) -> dict:
    """A configuration as it is saved, some of it changed by dotted names with ``__`` for dots."""
    adam = {"class_path": "Adam", "init_args": {"lr": 0.1}}
    game = {"generator": net(8), "objective": {"class_path": "Hinge"}, "generator_optimizer": adam, "terms": None}
    made = {
        "seed_everything": 0,
        "model": {"class_path": "Game", "init_args": game | {"compile": False, "critics": 1}},
        "data": {"dataset": {"class_path": "Faces", "init_args": {"count": 9}}, "resolution": 8, "batch_size": 4},
        "run": {"images": 64, "save_every": 8},
        "trainer": {"devices": 1, "precision": None},
        "init_from": None,
        "freeze": None,
    }
    for name, value in changes.items():
        *way, last = name.split("__")
        owner = made
        for part in way:
            owner = owner[part]
        owner[last] = value
    return made


def net(width: int) -> dict:
    return {"class_path": "Net", "init_args": {"width": width}}


OTHERS = [
    ("seed_everything", 1, "seed_everything is 0 there and 1 here"),
    ("data__resolution", 16, "data.resolution is 8 there and 16 here"),
    ("data__dataset__init_args__count", 5, "data.dataset.count is 9 there and 5 here"),
    ("data__dataset__class_path", "Other", "data.dataset is Faces there and Other here"),
    ("model__class_path", "Diffusion", "model is Game there and Diffusion here"),
    ("model__init_args__generator", net(16), "model.generator.width is 8 there and 16 here"),
    ("model__init_args__objective", {"class_path": "W"}, "model.objective is Hinge there and W here"),
    ("model__init_args__generator_optimizer", {"class_path": "SGD"}, "generator_optimizer is Adam there and SGD here"),
    ("model__init_args__terms", {"r1": {"class_path": "R1"}}, "model.terms is None there and {'r1'"),
    ("model__init_args__critics", 5, "model.critics is 1 there and 5 here"),
    ("init_from", "a.ckpt", "init_from is None there and a.ckpt here"),
]
SAME = [
    ("run__images", 128), ("run__save_every", 16), ("trainer__devices", 2), ("trainer__precision", "bf16-mixed"),
    ("data__batch_size", 8), ("data__num_workers", 2), ("model__init_args__compile", True), ("logger", False),
    ("model__init_args__generator_optimizer__init_args__lr", 0.2), ("model__init_args__added_in_this_version", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "said"), OTHERS)
def test_another_run_of_the_same_name_is_refused_by_last_and_passed_over_by_auto(name, value, said):
    saved = configured(1, 8)
    with pytest.raises(ValueError, match="another run") as refusal:
        continued("last", "never", "tiny", None, config(**{name: value}))
    assert said in str(refusal.value) and "runs/tiny/1" in str(refusal.value) and "--ckpt_path" in str(refusal.value)
    with pytest.warns(UserWarning, match="starts a new run, for runs/tiny/1 is another run") as warned:
        assert continued(None, "auto", "tiny", None, config(**{name: value})) is None
    assert said in str(warned[0].message)
    assert continued("last", "never", "tiny", None) == saved, "what is only read may be any run's"
    assert continued(saved, "auto", "tiny", None, config(**{name: value})) == saved, "a path is a person's own choice"


@pytest.mark.parametrize(("name", "value"), SAME)
def test_what_a_person_may_change_while_a_run_goes_on_is_no_other_run(name, value):
    saved = configured(1, 8)
    asked = config(**{name: value})
    assert continued("last", "never", "tiny", None, asked) == continued(None, "auto", "tiny", None, asked) == saved


def test_auto_takes_the_newest_run_that_is_the_one_asked_for(recwarn):
    configured(1, 8)
    wanted = configured(2, 16)
    configured(3, 24, seed_everything=1)
    assert continued(None, "auto", "tiny", None, config()) == wanted
    assert not [warning for warning in recwarn if "another run" in str(warning.message)]


def test_a_chosen_folder_of_another_run_is_refused_by_auto_too():
    configured("mine", 8, seed_everything=1)
    with pytest.raises(ValueError, match="runs/tiny/mine is another run: seed_everything is 1 there and 0 here"):
        continued(None, "auto", "other", "runs/tiny/mine", config())


def test_many_differences_are_counted():
    configured(1, 8)
    changes = {name: value for name, value, _ in OTHERS if "class_path" not in name}
    with pytest.raises(ValueError, match="and 5 more"):
        continued("last", "never", "tiny", None, config(**changes))


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
    assert run_folder("tiny", None) == Path("runs/tiny/8") == runs.made
    assert not claimed(Path("runs/tiny/8"))


def test_further_processes_make_no_folder_and_remove_none(monkeypatch):
    Path("runs/tiny/1").mkdir(parents=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_folder("tiny", None) == Path("runs/tiny"), "which it is, the first process tells later"
    discard_empty_run()
    assert Path("runs/tiny/1").is_dir()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run_folder("tiny", None) == Path("runs/tiny/2")
    discard_empty_run()
    assert Path("runs/tiny/1").is_dir() and not Path("runs/tiny/2").exists()


def test_an_experiment_is_named_after_its_files():
    model, data = Namespace(__path__="a/dcgan.yaml"), Namespace(__path__="b/avatars32.yaml")
    assert experiment_name(Namespace(config=["a.yaml", "b/mine.yaml"], model=model, data=data)) == "mine"
    assert experiment_name(Namespace(config=None, model=model, data=data)) == "dcgan_avatars32"
    assert experiment_name(Namespace(config=None, model=Namespace(), data=Namespace())) == "unnamed"


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),  # started by Lightning
        ({"NODE_RANK": "1"}, False),  # a second node, where Lightning starts processes on each
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),  # torchrun
        ({"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, True),  # torchrun under srun
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_is_the_first(monkeypatch, environment, first):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (rank() == 0) is first


def try_to_hold(folder: Path, found: multiprocessing.Queue) -> None:
    try:
        hold(folder)
        found.put("held")
    except RuntimeError as error:
        found.put(str(error))


def what_another_process_finds(folder: Path) -> str:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    other = context.Process(target=try_to_hold, args=(folder, found))
    other.start()
    said = found.get(timeout=60)
    other.join()
    return said


def taken(folder: Path) -> str:
    runs.held = None  # a fork knows what its parent holds, which another process would not
    return what_another_process_finds(folder)


def test_a_folder_is_one_process_s_until_it_lets_go_or_ends(tmp_path):
    hold(tmp_path)
    hold(tmp_path)  # as after a rollback
    kept = runs.held
    said = taken(tmp_path)
    assert f"process {os.getpid()} on " in said and f"is training in {tmp_path}" in said and "Wait until" in said
    runs.held = kept
    release()
    assert what_another_process_finds(tmp_path) == "held", "and ended"
    hold(tmp_path)
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_another_folder_lets_go_of_the_one_before(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hold(tmp_path / name)
    assert what_another_process_finds(tmp_path / "a") == "held"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_run_goes_on_without(tmp_path, monkeypatch, number):
    def refuse(file, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(runs.fcntl, "lockf", refuse)
    with pytest.warns(UserWarning, match=r"can't be locked .* nothing keeps a second run") as said:
        hold(tmp_path)
        hold(tmp_path)
    assert len(said) == 1
    monkeypatch.setattr(runs, "fcntl", None)  # Windows
    release()
    with pytest.warns(UserWarning, match="no record locks on this system"):
        hold(tmp_path)


def test_a_folder_that_can_not_be_written_is_not_held(tmp_path):
    with pytest.warns(UserWarning, match="nowhere can't be locked"):
        hold(tmp_path / "nowhere")
    assert runs.held is None


class FullFile(io.StringIO):
    """A file of which the disk takes no more."""

    name = "full"

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "no space")

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, "no space")


def test_a_full_disk_keeps_no_run_from_its_lock_nor_from_letting_go(monkeypatch):
    monkeypatch.setattr(runs.fcntl, "lockf", lambda file, kind: None)
    runs.held = FullFile()
    runs.lock(runs.held)
    release()
    assert runs.held is None


def test_a_run_that_failed_leaves_no_lock_either():
    folder = run_folder("tiny", None)
    hold(folder)
    discard_empty_run()
    assert not folder.exists()


def test_what_lies_beyond_where_a_run_goes_on_is_kept_in_a_folder_of_its_own(tmp_path):
    for images in (8, 16, 24):
        saved(tmp_path, images)
    saved(tmp_path, 16, "best.ckpt")
    with pytest.warns(UserWarning, match=r"goes on from 16 images.*abandoned_1 \(images_000000024\.ckpt\)"):
        set_aside(tmp_path, 16)
    assert checkpoints(tmp_path) == ["best.ckpt", "images_000000008.ckpt", "images_000000016.ckpt"]
    with pytest.warns(UserWarning, match=r"abandoned_2 \(images_000000016\.ckpt, best\.ckpt\)"):
        set_aside(tmp_path, 8)
    aside = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("abandoned_*/*"))
    assert aside == ["abandoned_1/images_000000024.ckpt", "abandoned_2/best.ckpt", "abandoned_2/images_000000016.ckpt"]
    assert read_checkpoint(tmp_path / aside[0])["state_dict"]["_extra_state"]["images_seen"] == 24
    set_aside(tmp_path, 8)
    assert not (tmp_path / "abandoned_3").exists(), "nothing was beyond"


def test_a_damaged_best_is_left_where_it_is(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"PK")
    set_aside(tmp_path, 8)
    assert checkpoints(tmp_path) == ["best.ckpt"]
