"""Pictures from a checkpoint alone: the same seed the same bytes, and what is asked in vain is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import to_bytes
from tests.conf.training import STYLES, checkpoint_of


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("conditional"), "--model.conditional", "true")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pixels(file) -> torch.Tensor:
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def names(*seeds: int) -> list[str]:
    return [f"seed_{seed:06d}.png" for seed in seeds]


def test_a_folder_holds_what_the_averaged_generator_makes(plain):
    main(["sample", str(plain), "--count", "3", "--seed", "5"])
    assert sorted(path.name for path in Path("samples").iterdir()) == [*names(5, 6, 7), "sheet.png"]
    expected = to_bytes(load_module(plain).sample(torch.arange(5, 8)))
    assert len(expected.unique(dim=0)) == 3
    for name, image in zip(names(5, 6, 7), expected, strict=True):
        assert torch.equal(pixels(Path("samples", name)), image)


def test_the_sheet_shows_the_first_pictures_in_rows(plain):
    main(["sample", str(plain), "--count", "70", "--columns", "4", "--batch_size", "30"])
    sheet = pixels("samples/sheet.png")
    assert sheet.shape == (3, 16 * 10 + 2, 4 * 10 + 2)  # 64 of them
    assert torch.equal(sheet[:, 2:10, 2:10], pixels("samples/seed_000000.png"))
    assert torch.equal(sheet[:, -10:-2, -10:-2], pixels("samples/seed_000063.png"))


def test_a_zip_holds_the_same_pictures_and_the_sheet_lies_beside_it(plain):
    main(["sample", str(plain), "--count", "3"])
    main(["sample", str(plain), "--count", "3", "--output", "new/drawn.zip"])
    assert sorted(path.name for path in Path("new").iterdir()) == ["drawn.png", "drawn.zip"]
    with zipfile.ZipFile("new/drawn.zip") as archive:
        assert archive.namelist() == names(0, 1, 2) and archive.testzip() is None
        for name in archive.namelist():
            assert torch.equal(pixels(io.BytesIO(archive.read(name))), pixels(Path("samples", name)))
    assert torch.equal(pixels("new/drawn.png"), pixels("samples/sheet.png"))


def test_seeds_may_be_named_one_by_one(plain):
    main(["sample", str(plain), "--count", "4"])
    main(["sample", str(plain), "--seeds", "[3,1]", "--output", "some"])
    assert sorted(path.name for path in Path("some").iterdir()) == [*names(1, 3), "sheet.png"]
    sheet = pixels("some/sheet.png")
    for place, name in enumerate(names(3, 1)):  # in the order in which they were asked for
        assert torch.equal(sheet[:, 2:10, 2 + 10 * place : 10 + 10 * place], pixels(Path("samples", name)))
        assert torch.equal(pixels(Path("some", name)), pixels(Path("samples", name)))


@pytest.mark.parametrize("kind", ["plain", "conditional"])
def test_the_same_seed_is_the_same_picture_in_every_batch(kind, request):
    checkpoint = str(request.getfixturevalue(kind))
    main(["sample", checkpoint, "--count", "7", "--output", "whole"])
    main(["sample", checkpoint, "--count", "5", "--seed", "2", "--batch_size", "3", "--output", "parts"])
    for name in names(*range(2, 7)):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


def asked(monkeypatch) -> list[torch.Tensor | None]:
    """Note the labels that every call of ``sample`` is given."""
    seen: list[torch.Tensor | None] = []
    real = Adversarial.sample

    def spy(self, seeds, labels=None, truncation_psi=1.0):
        seen.append(labels)
        return real(self, seeds, labels, truncation_psi)

    monkeypatch.setattr(Adversarial, "sample", spy)
    return seen


def test_named_labels_are_set_and_the_others_are_drawn_from_the_data(conditional, monkeypatch):
    seen = asked(monkeypatch)
    main(["sample", str(conditional), "--count", "20", "--batch_size", "8", "--labels", "colour=blue"])
    labels = torch.cat(seen[1:])  # the first call is a trial, before the output is opened
    assert labels[:, :2].tolist() == [[0, 1]] * 20
    drawn = load_module(conditional).draw_labels(torch.arange(20))
    assert torch.equal(labels[:, 2], drawn[:, 2]) and set(labels[:, 2].tolist()) == {0, 1}
    assert set(drawn[:, 1].tolist()) == {0, 1}, "what was set must differ from what was drawn"


def test_labels_change_the_pictures(conditional):
    for text in ("colour=blue,large=1", "colour=red,large=0"):
        main(["sample", str(conditional), "--count", "2", "--labels", text, "--output", text])
    assert not torch.equal(pixels("colour=blue,large=1/sheet.png"), pixels("colour=red,large=0/sheet.png"))


def test_a_model_whose_labels_were_left_out_at_times_draws_without_any(tmp_path, monkeypatch):
    path = checkpoint_of(tmp_path / "dropped", "--model.conditional", "true", "--model.label_dropout", "0.5")
    seen = asked(monkeypatch)
    main(["sample", str(path), "--count", "3", "--labels", "none"])
    assert torch.equal(torch.cat(seen[1:]), torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("plain", ["--labels", "colour=blue"], "was trained without labels"),
        ("conditional", ["--labels", "colour=green"], "colour is one of red, blue"),
        ("conditional", ["--labels", "none"], "was given labels with every picture (label_dropout: 0)"),
        ("plain", ["--labels", "none"], "was trained without labels"),
        ("plain", ["--seed", "-1"], "seeds must be 0 or more, got -1"),
        ("plain", ["--seeds", "[4,-3]"], "seeds must be 0 or more, got -3"),
        ("plain", ["--count", "0"], "count must be at least 1, got 0"),
        ("plain", ["--columns", "0"], "columns must be at least 1, got 0"),
        ("plain", ["--batch_size", "-1"], "batch_size must be at least 1, got -1"),
        ("plain", ["--device", "gpu"], "--device gpu can't be used"),
        ("plain", ["--truncation_psi", "0.7"], "TinyGenerator has no truncation"),
        ("plain", ["--top_k", "5"], "--top_k says how pictures are drawn code by code, which Adversarial does not do"),
        ("conditional", ["--guidance", "2"], "--guidance says how pictures are drawn code by code"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(kind, args, message, request, capsys):
    refused(["sample", str(request.getfixturevalue(kind)), *args], message, capsys)
    assert not list(Path().rglob("*.png"))


def test_truncation_beyond_its_range_is_refused_before_the_output_is_opened(tmp_path, capsys):
    path = str(checkpoint_of(tmp_path / "styles", "--model.generator", str(STYLES)))
    refused(["sample", path, "--truncation_psi", "1.5"], "truncation_psi must be from 0 (the mean style) to 1", capsys)
    assert not Path("samples").exists()
    main(["sample", path, "--count", "1", "--truncation_psi", "0.5"])


def refused(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr().err
    (error,) = (line for line in said.splitlines() if line.startswith("error"))
    assert stop.value.code == 2 and message in error and "Traceback" not in said


def test_a_recogniser_makes_no_pictures(tmp_path, capsys):
    data = ["--data.dataset", "tests.conf.tiny.TinyFaces", "--data.resolution", "8", "--data.batch_size", "8"]
    main(
        ["fit", "--model", "recognition", *data, "--run.images", "8", "--trainer.default_root_dir", "run",
         "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    )  # fmt: skip
    checkpoint = "run/checkpoints/images_000000008.ckpt"
    refused(["sample", checkpoint], f"{checkpoint} holds a Recognition, which makes no pictures", capsys)


def test_a_file_that_is_no_checkpoint_is_named(capsys):
    Path("notes.ckpt").write_text("not a checkpoint")
    refused(["sample", "notes.ckpt"], "notes.ckpt can't be read as a checkpoint", capsys)


def test_a_checkpoint_without_a_configuration_says_what_to_do(plain, capsys):
    kept = torch.load(plain, weights_only=True)
    torch.save(kept | {"config": None}, "bare.ckpt")
    refused(["sample", "bare.ckpt"], "bare.ckpt holds no configuration", capsys)
