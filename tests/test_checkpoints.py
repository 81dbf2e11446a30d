"""A checkpoint is enough to rebuild its module, and nothing in it is ever run."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from lightning_avatars import checkpoints
from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import (
    SEAL_LENGTH,
    WholeFiles,
    by_age,
    damage,
    is_public,
    last_good,
    load_module,
    read_checkpoint,
    write,
)
from lightning_avatars.cli import main
from tests.conf import faults
from tests.conf.training import TINY, checkpoint_of, fit, game


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("sprung").absolute(),)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"config": {"model": {}}, "state_dict": {}, "extra": Trap()}, "trap.ckpt")
    torch.load("trap.ckpt", weights_only=False)
    Path("sprung").unlink()  # it does spring where pickles are trusted
    return Path("trap.ckpt")


def test_code_in_a_checkpoint_is_refused_and_does_not_run(trap):
    with pytest.raises(ValueError, match=r"trap\.ckpt can't be read as a checkpoint of tensors and plain values"):
        load_module(trap)
    assert not Path("sprung").exists()


def test_going_on_from_a_strangers_checkpoint_runs_no_code_either(trap):
    with pytest.raises((SystemExit, pickle.UnpicklingError)):
        main(["fit", "-c", TINY, "--ckpt_path", str(trap), "--quality.enabled", "false"])
    assert not Path("sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a zip"])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.ckpt can't be read"):
        load_module(path)


def test_tensors_without_a_configuration_are_refused(tmp_path):
    for content in ({"state_dict": {}}, torch.zeros(2)):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match="holds no configuration"):
            load_module(tmp_path / "other.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.ckpt"):
        load_module(tmp_path / "none.ckpt")


def test_a_checkpoint_far_from_its_run_is_rebuilt_alone(tmp_path):
    written = checkpoint_of(tmp_path / "run", "--model.conditional", "true", "--data.seed", "0")
    alone = shutil.copy(written, tmp_path / "alone.ckpt")
    shutil.rmtree(tmp_path / "run")
    module, again = load_module(Path(alone)), load_module(Path(alone))
    assert not module.training and module.conditional and module.images_seen == 8
    assert module.config["data"]["dataset"]["class_path"] == "tests.conf.tiny.TinyFaces"
    kept = torch.load(alone, weights_only=True)["state_dict"]
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, kept[key]), key
    seeds = torch.arange(4)
    assert torch.equal(module.sample(seeds), again.sample(seeds))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run's folder with checkpoints after 16, 32 and 40 images."""
    folder = tmp_path_factory.mktemp("run")
    fit(game(), folder, callbacks=[Run(images=40, validate_every=0, save_every=16, keep=3)])
    return folder


@pytest.fixture
def run(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "run"))


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    write({"state_dict": {"weight": torch.arange(12.0)}, "epoch": 3}, path, None)
    size = path.stat().st_size
    assert damage(path) is None
    for position in range(0, size - SEAL_LENGTH, 5):
        flip(path, position, position % 8)
        assert damage(path) is not None, f"byte {position} of {size}"
        flip(path, position, position % 8)
    for position in range(size - SEAL_LENGTH, size):  # of the checksum: the content is whole
        flip(path, position)
        if damage(path) is None:
            assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], torch.arange(12.0))
        flip(path, position)


def test_any_truncation_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    write({"state_dict": {"weight": torch.arange(12.0)}}, path, None)
    content = path.read_bytes()
    for size in range(0, len(content) - SEAL_LENGTH, 7):
        path.write_bytes(content[:size])
        assert damage(path) is not None, size


def test_a_checkpoint_with_a_seal_is_read_by_torch_and_one_without_by_us(tmp_path):
    write({"a": torch.ones(2)}, tmp_path / "ours.ckpt", None)
    torch.save({"a": torch.ones(2)}, tmp_path / "theirs.ckpt")
    for name in ("ours", "theirs"):
        assert torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["a"].tolist() == [1, 1]
        assert read_checkpoint(tmp_path / f"{name}.ckpt")["a"].tolist() == [1, 1]
    flip(tmp_path / "theirs.ckpt", (tmp_path / "theirs.ckpt").read_bytes().index(torch.ones(2).numpy().tobytes()))
    assert "checksum of theirs/data/0" in str(damage(tmp_path / "theirs.ckpt"))


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "no zip"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(run, harm):
    newest = run / "checkpoints/images_000000040.ckpt"
    content = newest.read_bytes()
    if harm == "flipped":
        flip(newest, len(content) // 2)
    else:
        newest.write_bytes({"truncated": content[:-1000], "empty": b"", "no zip": b"x" * 5000}[harm])
    with pytest.warns(UserWarning, match=r"images_000000040\.ckpt is damaged .* the checkpoint before it is used"):
        assert last_good(run) == run / "checkpoints/images_000000032.ckpt"


def test_where_all_are_damaged_there_is_none(run):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"PK")
    with pytest.warns(UserWarning, match="is damaged"):
        assert last_good(run) is None
    assert last_good(run / "nowhere") is None


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_and_a_whole_one_named(run):
    newest = run / "checkpoints/images_000000040.ckpt"
    flip(newest, 5000)
    with pytest.raises(ValueError, match=r"images_000000040\.ckpt can't be read .*images_000000032\.ckpt is whole"):
        read_checkpoint(newest)
    with pytest.raises(ValueError, match=r"images_000000032\.ckpt is whole"):
        fit(game(), run, images=48, ckpt_path=newest)


class Killed(BaseException):
    """The process ends here."""


def test_a_kill_before_the_renaming_leaves_the_old_checkpoint(run, monkeypatch):
    def die(temporary: Path, path: Path) -> None:
        raise Killed

    path = run / "checkpoints/images_000000040.ckpt"
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "put_in_place", die)
    with pytest.raises(Killed):
        write({"state_dict": {}}, path, None)
    assert path.read_bytes() == before


def test_what_a_killed_run_left_is_swept_at_the_next_start(run):
    half = run / "checkpoints/images_000000048.part"
    half.write_bytes(b"half")
    fit(game(), run, images=40, ckpt_path=run / "checkpoints/images_000000040.ckpt")
    assert not half.exists()


def test_written_beside_the_training_or_in_its_way_the_content_is_the_same(written, tmp_path):
    fit(game(), tmp_path, callbacks=[Run(images=40, validate_every=0, save_every=16, keep=3, save_beside=False)])
    assert faults.checkpoints(tmp_path) == faults.checkpoints(written)
    for name in faults.checkpoints(written):
        beside, before = (torch.load(f / "checkpoints" / name, weights_only=True) for f in (written, tmp_path))
        beside.pop("callbacks"), before.pop("callbacks")  # named by their arguments
        assert faults.equal(beside, before)


def test_training_that_goes_on_does_not_change_a_checkpoint_that_is_still_to_be_written(tmp_path):
    files, weight = WholeFiles(beside=True), torch.zeros(3)
    gate = threading.Event()
    files.pool.submit(gate.wait)  # the thread that writes is busy
    files.save_checkpoint({"deep": [{"weight": weight}]}, tmp_path / "a.ckpt")
    weight.add_(1)
    gate.set()
    files.finish()
    assert read_checkpoint(tmp_path / "a.ckpt")["deep"][0]["weight"].tolist() == [0, 0, 0]


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path):
    files, order = WholeFiles(beside=True), []
    for i in range(3):
        files.then = partial(order.append, i)
        files.save_checkpoint({"i": i}, tmp_path / f"{i}.ckpt")
    files.finish()
    assert order == [0, 1, 2] and faults.equal(read_checkpoint(tmp_path / "2.ckpt"), {"i": 2})


def test_a_disk_error_is_said_and_another_error_raised(tmp_path):
    (tmp_path / "file").write_text("")
    files = WholeFiles(beside=True)
    files.save_checkpoint({}, tmp_path / "file/a.ckpt")
    with pytest.warns(UserWarning, match=r"the checkpoint .*a\.ckpt .*COULD NOT BE WRITTEN\. Training goes on"):
        files.finish()
    files.save_checkpoint({"lock": threading.Lock()}, tmp_path / "a.ckpt")
    with pytest.raises(TypeError, match="pickle"):
        files.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Files:
    """Says in its constructor's types which of its arguments are files.

    Args:
        paths: Files.
        root: A folder.
        count: No file.
    """

    def __init__(self, paths: list[Path] | None = None, root: str | os.PathLike[str] = "", count: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "public"),
    [({"count": 9}, True), ({"paths": ["/home/me/faces"]}, False), ({"root": "/home/me"}, False)],
)
def test_data_that_names_files_in_whatever_way_is_not_public(arguments, public):
    given = {"class_path": "tests.test_checkpoints.Files", "init_args": arguments}
    assert is_public({"dataset": given}) is public


def saved(folder: Path, images: int, name: str | None = None) -> Path:
    path = folder / "checkpoints" / (name or f"images_{images:09d}.ckpt")
    write({"state_dict": {"_extra_state": {"images_seen": images}}}, path, None)
    return path


def test_newest_is_by_images_for_copying_a_folder_changes_times(tmp_path):
    for age, images in enumerate((1_000_000_008, 64, 8)):
        os.utime(saved(tmp_path, images), (age, age))
    saved(tmp_path, 9, "images_of_mine.ckpt")
    assert [path.name for path in by_age(tmp_path)] == [
        "images_000000008.ckpt", "images_000000064.ckpt", "images_1000000008.ckpt"
    ]  # fmt: skip
    assert last_good(tmp_path) == tmp_path / "checkpoints/images_1000000008.ckpt"


def test_a_course_that_went_back_is_the_one_that_goes_on(run):
    before = (run / "checkpoints/images_000000040.ckpt").read_bytes()
    callbacks = [Run(images=32, validate_every=0, save_every=8, keep=3)]
    with pytest.warns(UserWarning, match=r"goes on from 16 images.*images_000000040\.ckpt"):
        fit(game(), run, ckpt_path=run / "checkpoints/images_000000016.ckpt", callbacks=callbacks)
    assert last_good(run) == run / "checkpoints/images_000000032.ckpt" and len(faults.checkpoints(run)) == 3
    assert (run / "abandoned_1/images_000000040.ckpt").read_bytes() == before


def test_a_new_run_in_a_chosen_folder_overwrites_nothing(run):
    before = (run / "checkpoints/images_000000016.ckpt").read_bytes()
    with pytest.warns(UserWarning, match="goes on from 0 images"):
        fit(game(), run, callbacks=[Run(images=16, validate_every=0, save_every=8)])
    assert faults.checkpoints(run) == ["images_000000008.ckpt", "images_000000016.ckpt"]
    assert (run / "abandoned_1/images_000000016.ckpt").read_bytes() == before
