"""One file with the averaged generator draws what its checkpoint draws, and holds no code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from tests.conf.training import checkpoint_of


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A conditional game's checkpoint."""
    conditional = ["--model.conditional", "true", "--data.seed", "0", "--run.images", "24"]
    folder = tmp_path_factory.mktemp("source")
    checkpoint_of(folder, *conditional)
    path = folder / "checkpoints/images_000000024.ckpt"
    main(["export", "weights", str(path)])
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_file_lies_beside_its_checkpoint_or_where_it_was_asked_for(source):
    assert source.with_suffix(".safetensors").is_file()
    main(["export", "weights", str(source), "--output", "new/folder/mine.safetensors"])
    assert [path.name for path in Path("new/folder").iterdir()] == ["mine.safetensors"]
    assert Path("new/folder/mine.safetensors").read_bytes() == source.with_suffix(".safetensors").read_bytes()


def test_pictures_from_the_file_are_those_of_the_checkpoint(source):
    for name, path in (("checkpoint", source), ("exported", source.with_suffix(".safetensors"))):
        main(["sample", str(path), "--count", "6", "--output", name, "--labels", "large"])
    drawn = sorted(path.name for path in Path("exported").iterdir())
    assert len(drawn) == 7
    assert all((Path("exported") / name).read_bytes() == (Path("checkpoint") / name).read_bytes() for name in drawn)


def test_scores_of_the_file_are_those_of_the_checkpoint(source):
    scores = []
    for path in (source, source.with_suffix(".safetensors")):
        main(["evaluate", str(path), "--images", "20", "--extractors", "avatarnet", "--json", f"{path.suffix}.json"])
        (result,) = json.loads(Path(f"{path.suffix}.json").read_text())["results"]
        scores.append((result["scores"], result["images_seen"]))
    assert scores[0] == scores[1] and scores[0][1] == 24


def test_the_file_holds_the_average_and_a_configuration_and_no_pickle(source):
    path = source.with_suffix(".safetensors")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["lightning_avatars"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about["config"]["data"]["resolution"] == 8 and about["label_names"][2] == "large"
    average = load_module(source).average.average.state_dict()
    assert tensors.keys() == {f"generator.{name}" for name in average} | {"label_rows"}
    assert all(torch.equal(tensors[f"generator.{name}"], tensor) for name, tensor in average.items())
    head = path.read_bytes()[:2]
    assert head not in (b"PK", b"\x80\x02") and b"_rebuild_tensor" not in path.read_bytes()


def test_an_exported_file_can_be_exported_again(source):
    main(["export", "weights", str(source.with_suffix(".safetensors")), "--output", "again.safetensors"])
    assert Path("again.safetensors").read_bytes() == source.with_suffix(".safetensors").read_bytes()


RECOGNISER = """
model:
  class_path: lightning_avatars.families.recognition.Recognition
  init_args: {network: {class_path: lightning_avatars.networks.recognizer.RecognitionNet, init_args: {width: 4}}}
"""


def test_a_recogniser_is_refused(capsys, tmp_path):
    Path("net.yaml").write_text(RECOGNISER)
    checkpoint = checkpoint_of(tmp_path / "run", "-c", "net.yaml")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["export", "weights", str(checkpoint)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "holds a Recognition, which makes no pictures" in said
    assert not checkpoint.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("content", ["text", "tensors", "other metadata"])
def test_other_files_are_named(content):
    path = Path("other.safetensors")
    if content == "text":
        path.write_text("text")
    else:
        save_file({"a": torch.ones(1)}, path, {} if content == "tensors" else {"lightning_avatars": "nonsense"})
    with pytest.raises(ValueError, match=r"other\.safetensors holds no exported generator"):
        load_module(path)


def test_a_file_that_is_not_there_is_named(capsys):
    for command in (["export", "weights", "none.ckpt"], ["sample", "none.safetensors"]):
        with pytest.raises(SystemExit):
            main(command)
        assert f"at {command[-1]}" in capsys.readouterr().err
