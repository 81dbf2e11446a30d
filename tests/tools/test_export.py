"""One file with the averaged generator draws what its checkpoint draws, and holds no code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lightning_avatars.checkpoints import export_weights, load_module
from lightning_avatars.cli import main
from tests.conf.training import checkpoint_of, game


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


def parts(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """What a file says of itself, and its tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lightning_avatars"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "content",
    ["text", "tensors", "nonsense", "3", "config", "images_seen", "label_names", "label_rows", "generator.image.bias",
     "model", "shape", "recogniser"],
)  # fmt: skip
def test_other_files_are_named(content, source):
    path = Path("other.safetensors")
    about, tensors = parts(source.with_suffix(".safetensors"))
    about.pop(content, None), tensors.pop(content, None)
    if content == "model":
        about["config"] = {"model": {"class_path": "nowhere.Net"}}
    elif content == "shape":
        tensors["generator.image.bias"] = torch.ones(7)
    elif content == "recogniser":
        about["config"] = yaml.safe_load(RECOGNISER)
        about["config"]["model"]["init_args"]["network"]["init_args"]["label_names"] = ["a"]
    said = {"tensors": {}, "nonsense": {"lightning_avatars": "nonsense"}, "3": {"lightning_avatars": "3"}}
    save_file(tensors, path, said.get(content, {"lightning_avatars": json.dumps(about)}))
    if content == "text":
        path.write_text("text")
    with pytest.raises(ValueError, match=r"other\.safetensors holds no exported generator"):
        load_module(path)


def test_a_file_that_is_not_there_is_named(capsys):
    for command in (["export", "weights", "none.ckpt"], ["sample", "none.safetensors"]):
        with pytest.raises(SystemExit):
            main(command)
        assert f"at {command[-1]}" in capsys.readouterr().err


def test_weights_that_share_memory_survive():
    module = game()
    module.config = {"model": {}}
    module.average.average.twin = module.average.average.image.weight
    module.average.average.register_buffer("part", torch.arange(6.0)[2:4].expand(3, 2))
    export_weights(module, Path("tied.safetensors"))
    tensors = parts(Path("tied.safetensors"))[1]
    assert torch.equal(tensors["generator.twin"], tensors["generator.image.weight"])
    assert tensors["generator.part"].tolist() == [[2, 3]] * 3


def test_a_published_file_holds_no_path_and_no_labels_that_it_does_not_need(source, tmp_path, capsys):
    Path("my own faces").mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 5 * i, 3 * i)).save(f"my own faces/{i:02}.png")
    Path("labels.csv").write_text("file,round\n" + "".join(f"{i:02}.png,{i % 2}\n" for i in range(40)))
    Path("mine.yaml").write_text(
        "dataset:\n  class_path: lightning_avatars.data.folder.ImageFolder\n"
        "  init_args: {path: my own faces, attributes: labels.csv}\nresolution: 8\nbatch_size: 8\n"
    )
    checkpoint = checkpoint_of(tmp_path / "run", "--data", "mine.yaml")
    main(["export", "weights", str(checkpoint)])
    file = checkpoint.with_suffix(".safetensors")
    about, tensors = parts(file)
    assert "data" not in about["config"] and tensors["label_rows"].shape == (0, 1)
    assert b"my own faces" not in file.read_bytes() and b"labels.csv" not in file.read_bytes()
    assert b"my own faces" in checkpoint.read_bytes()
    capsys.readouterr()
    scored = ["evaluate", str(file), "--images", "20", "--extractors", "avatarnet", "--json", "scores.json"]
    with pytest.raises(SystemExit) as stop:
        main(scored)
    assert stop.value.code == 2 and "do not say where the pictures are" in capsys.readouterr().err
    main([*scored, "-c", "mine.yaml"])
    (result,) = json.loads(Path("scores.json").read_text())["results"]
    assert result["images_seen"] == 8 and "fd_avatarnet_20" in result["scores"]


def test_a_conditional_generator_keeps_the_labels_that_it_draws_from_and_public_data(source):
    about, tensors = parts(source.with_suffix(".safetensors"))
    assert torch.equal(tensors["label_rows"], load_module(source).label_rows) and len(tensors["label_rows"]) > 50
    assert about["config"]["data"]["dataset"]["class_path"] == "tests.conf.tiny.TinyFaces"
