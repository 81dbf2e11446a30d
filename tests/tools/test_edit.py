"""Given pictures changed along named attributes, by a model whose latents are known in closed form."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.checkpoints import export_weights, load_module
from lightning_avatars.cli import main
from lightning_avatars.encoding import Encoded
from lightning_avatars.images import to_bytes, to_float, to_picture
from tests.conf.encoding import encoding_checkpoint
from tests.conf.training import checkpoint_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plain() -> str:
    return str(encoding_checkpoint(Path("plain.ckpt")))


@pytest.fixture
def pictures() -> torch.Tensor:
    """Write five pictures in a folder, one in a subfolder; return them in the order of their names."""
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Path("given/sub").mkdir(parents=True)
    for name, image in zip(("a.png", "b.png", "c.png", "d.png", "sub/a.png"), images, strict=True):
        to_picture(image).save(Path("given", name))
    return images


def pixels(path: str) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def cell(sheet: torch.Tensor, row: int, column: int) -> torch.Tensor:
    return sheet[:, 2 + 10 * row :, 2 + 10 * column :][:, :8, :8]


def test_pictures_are_moved_along_the_sum_of_named_vectors(plain, pictures):
    main(["edit", plain, "given", "--attributes", "{large: 1.5, colour=blue: -0.5}", "--steps", "3"])
    module = load_module(Path(plain))
    encoded = Encoded(module)
    latents = module.encode(to_float(pictures))
    move = 1.5 * encoded.vector("large") - 0.5 * encoded.vector("colour=blue")
    names = ["a.png", "b.png", "c.png", "d.png", "sub_a.png"]
    assert sorted(path.name for path in Path("edited").iterdir()) == [*names[:4], "sheet.png", "sub_a.png"]
    for name, image in zip(names, to_bytes(module.decode(latents + move)), strict=True):
        assert torch.equal(pixels(f"edited/{name}"), image)
    sheet = pixels("edited/sheet.png")
    assert sheet.shape == (3, 52, 42)
    for row in range(5):
        assert torch.equal(cell(sheet, row, 0), pictures[row])
        for column, share in ((1, 0.0), (2, 0.5), (3, 1.0)):
            expected = to_bytes(module.decode(latents[row : row + 1] + share * move))[0]
            assert torch.equal(cell(sheet, row, column), expected)


def test_without_attributes_pictures_are_reconstructed(plain, pictures):
    main(["edit", plain, "given/b.png", "--output", "out.zip"])
    module = load_module(Path(plain))
    expected = to_bytes(module.decode(module.encode(to_float(pictures[1:2]))))[0]
    with zipfile.ZipFile("out.zip") as archive:
        assert archive.namelist() == ["b.png"]
        archive.extractall()
    assert torch.equal(pixels("b.png"), expected)
    sheet = pixels("out.png")
    assert sheet.shape == (3, 12, 22) and torch.equal(cell(sheet, 0, 1), expected)


def test_of_what_sample_wrote_the_pictures_are_edited_and_not_their_sheet(plain, tmp_path):
    main(["sample", str(checkpoint_of(tmp_path / "gan")), "--count", "2", "--output", "drawn"])
    assert Path("drawn/sheet.png").is_file()
    main(["edit", plain, "drawn"])
    names = ["seed_000000.png", "seed_000001.png", "sheet.png"]
    assert sorted(path.name for path in Path("edited").iterdir()) == names
    assert pixels("edited/sheet.png").shape == (3, 22, 22), "a row for each picture, it and what was made of it"


def test_pictures_of_any_size_and_kind_are_cut_and_resized(plain):
    Image.new("L", (40, 20), 200).save("wide.jpg")
    main(["edit", plain, "wide.jpg"])
    assert (pixels("edited/wide.png").int() - 200).abs().max() <= 2
    assert pixels("edited/wide.png").shape == (3, 8, 8)


def test_conditional_models_are_told_what_pictures_show(pictures):
    checkpoint = encoding_checkpoint(Path("conditional.ckpt"), conditional=True)
    module = load_module(checkpoint)
    main(["edit", str(checkpoint), "given/a.png", "--labels", "large=1", "--attributes", "{large: 1}"])
    vector = Encoded(module).vector("large")
    labels = torch.tensor([[0.5, 0.5, 1.0]])  # the mean of the training pictures', and what is named
    expected = to_bytes(module.decode(module.encode(to_float(pictures[:1]), labels) + vector, labels))[0]
    assert torch.equal(pixels("edited/a.png"), expected)


def test_exported_weights_need_only_be_told_the_data(plain, pictures):
    module = load_module(Path(plain))
    del module.config["data"]
    export_weights(module, Path("weights.safetensors"))
    main(["edit", plain, "given", "--attributes", "{large: 1}", "--output", "first"])
    data = ["--data.dataset", "tests.conf.tiny.TinyFaces", "--data.resolution", "8"]
    main(["edit", "weights.safetensors", "given", "--attributes", "{large: 1}", "--output", "second", *data])
    assert torch.equal(pixels("first/sheet.png"), pixels("second/sheet.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["given", "--attributes", "{lagre: 1}"], "no label is called 'lagre'; the nearest are large"),
        (["given", "--labels", "large=1"], "was trained without labels, so that it can't obey 'large=1'"),
        (["given", "--steps", "1"], "steps must be at least 2, got 1"),
        (["given", "--data.dataset", "tests.conf.tiny.TinyFaces"], "-c names pictures for the vectors of attributes"),
        (["nowhere"], "no folder or zip at nowhere"),
        (["plain.ckpt"], "plain.ckpt can't be read: not a picture of a known format"),
    ],
)
def test_what_cant_be_edited_is_said(plain, pictures, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["edit", plain, *arguments])
    assert stop.value.code == 2 and re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not Path("edited").exists()


def test_a_gan_is_said_to_find_no_latents(tmp_path, pictures, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["edit", str(checkpoint_of(tmp_path / "gan")), "given"])
    said = " ".join(capsys.readouterr().err.split())
    assert (
        stop.value.code == 2 and "Adversarial, which can't find the latents of given pictures: use an autoenc" in said
    )
