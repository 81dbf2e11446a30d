"""Names on the command line become paths, and nothing else is touched."""

from __future__ import annotations

import pytest

from lightning_avatars import shipped
from lightning_avatars.shipped import FOLDERS, expand, find, names

FILES = {
    "model": ["dcgan", "wgan", "wgan_gp"],
    "data": ["avatars32", "avatars64", "mnist32"],
    "trainer": ["gpu"],
    "extractor": ["avatarnet", "inception"],
    "config": ["dcgan_mnist32", "avatarnet"],
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A checkout with known files, run from an empty folder."""
    for kind, stems in FILES.items():
        (tmp_path / FOLDERS[kind]).mkdir(parents=True)
        for stem in stems:
            (tmp_path / FOLDERS[kind] / f"{stem}.yaml").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "lightning_avatars")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def path(root, kind, name):
    return str(root / FOLDERS[kind] / f"{name}.yaml")


def test_names_are_sorted_stems():
    assert {kind: names(kind) for kind in FOLDERS} == {kind: sorted(stems) for kind, stems in FILES.items()}


def test_the_real_files_are_found(monkeypatch):
    monkeypatch.undo()
    assert "dcgan" in names("model") and "avatars64" in names("data")
    assert find("dcgan", "model").is_file() and find("avatarnet", "extractor").is_file()


def test_files_inside_an_installed_package_come_first(root):
    inside = shipped.PACKAGE / "configs/model"
    inside.mkdir(parents=True)
    (inside / "stylegan.yaml").touch()
    assert names("model") == ["stylegan"] and names("data") == FILES["data"]
    assert find("stylegan", "model") == inside / "stylegan.yaml"


def test_find_takes_names_and_paths(root):
    assert str(find("wgan", "model")) == path(root, "model", "wgan")
    mine = root / "here" / "wgan"
    mine.touch()
    assert str(find("inception", "extractor")) == path(root, "extractor", "inception")
    assert find("wgan", "model").resolve() == mine, "a file in this folder is meant before a shipped one"
    assert find(str(mine), "config") == mine


def test_find_expands_the_home_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    assert str(find("~/configs/model/wgan.yaml", "config")) == path(root, "model", "wgan")


@pytest.mark.parametrize(
    ("value", "kind", "near"),
    [
        ("dcgann", "model", "dcgan"),
        ("avatars46", "data", "avatars64"),
        ("avatarnett", "config", "avatarnet"),
        ("wgan_gp_avatar64", "config", "wgan_gp_avatars64"),
    ],
)
def test_a_typo_lists_the_nearest_names(value, kind, near):
    with pytest.raises(FileNotFoundError, match=f"'{value}' is no file and no shipped {kind}") as caught:
        find(value, kind)
    assert str(caught.value).partition("nearest names: ")[2].split(", ")[0] == near


def test_a_name_like_no_other_lists_all_of_them():
    with pytest.raises(FileNotFoundError, match=r"nearest names: dcgan, wgan, wgan_gp$"):
        find("qqq", "model")


@pytest.mark.parametrize("option", ["-c", "--config"])
def test_an_experiment_by_name(root, option):
    expected = [option, path(root, "config", "avatarnet")]
    assert expand(["fit", option, "avatarnet", "--run.images", "8"]) == ["fit", *expected, "--run.images", "8"]
    assert expand([f"{option}=avatarnet"]) == expected


@pytest.mark.parametrize(("option", "name"), [("--model", "wgan"), ("--data", "mnist32"), ("--trainer", "gpu")])
def test_parts_by_name(root, option, name):
    expected = [option, path(root, option[2:], name)]
    assert expand([option, name]) == expand([f"{option}={name}"]) == expected


@pytest.mark.parametrize("pair", [("dcgan", "avatars64"), ("wgan", "mnist32"), ("wgan_gp", "avatars32")])
def test_model_and_data_in_one_word(root, pair):
    model, data = pair
    expected = ["fit", "--model", path(root, "model", model), "--data", path(root, "data", data), "--x=1"]
    assert expand(["fit", "-c", f"{model}_{data}", "--x=1"]) == expected
    assert expand(["fit", f"--config={model}_{data}", "--x=1"]) == expected


def test_an_experiment_or_a_file_of_that_name_goes_first(root):
    assert expand(["-c", "dcgan_mnist32"]) == ["-c", path(root, "config", "dcgan_mnist32")]
    (root / "here" / "wgan_mnist32").touch()
    assert expand(["-c", "wgan_mnist32"]) == ["-c", "wgan_mnist32"]


def test_a_folder_of_that_name_is_no_configuration(root):
    (root / "here" / "wgan_mnist32").mkdir()
    assert expand(["-c", "wgan_mnist32"])[0] == "--model"


def test_several_configurations_keep_their_order(root):
    expected = ["-c", path(root, "config", "avatarnet"), "--model", path(root, "model", "wgan")]
    assert expand(["-c", "avatarnet", "--model", "wgan", "-c", path(root, "data", "mnist32")]) == [
        *expected, "-c", path(root, "data", "mnist32")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fit", "--help"],
        ["fit", "-c"],
        ["dcgan"],
        ["--name", "dcgan", "--name=dcgan", "--model.init_args.name=dcgan", "--data.dataset", "mnist32"],
        ["--model", "lightning_avatars.families.adversarial.Adversarial"],
        ["--model", "lightning_avatars.families.adversarial.Adversarial", "--data.resolution", "16"],
        ["--data.batch_size=8", "--message=--config=dcgan", "--trainer.devices", "2"],
    ],
)
def test_everything_else_stays_as_it_was(args):
    assert expand(args) == args


def test_an_unknown_configuration_is_refused():
    with pytest.raises(FileNotFoundError, match="'dcgan_avatar64' is no file and no shipped config"):
        expand(["fit", "-c", "dcgan_avatar64"])
