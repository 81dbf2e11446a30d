"""A checkpoint is enough to rebuild its module, and nothing in it is ever run."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from lightning_avatars.cli import main
from lightning_avatars.tools.checkpoints import load_module
from tests.conf.training import TINY, checkpoint_of


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
