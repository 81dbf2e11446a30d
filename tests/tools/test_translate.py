"""Given pictures through checkpoints of translations whose outcome is known in closed form."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars import painting, ways
from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.images import to_bytes, to_float, to_picture
from lightning_avatars.metrics.extractors.base import Description
from tests.conf.training import checkpoint_of
from tests.conf.translating import ROWS, part, rule, translating_checkpoint
from tests.conf.translation import PARTS

SIZES = [(8, 8), (8, 8), (7, 13), (21, 5), (8, 8)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randint(
        0, 256, (channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    """Write pictures of several sizes, one in a subfolder."""
    names = ["a", "b", "c", "d", "sub/a"]
    pictures = {name: picture(i, *size) for i, (name, size) in enumerate(zip(names, SIZES, strict=True))}
    for name, image in pictures.items():
        path = Path("given", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        to_picture(image).save(path)
    return pictures


def pixels(path: str | Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def expected(image: torch.Tensor, labels: list[float] | None = None) -> torch.Tensor:
    return to_bytes(rule(to_float(image[None]), None if labels is None else torch.tensor([labels]).float()))[0]


def run(kind: str, *arguments: str, **options) -> None:
    checkpoint = Path(f"{kind}.ckpt")
    if not checkpoint.exists():
        translating_checkpoint(checkpoint, kind, **options)
    main(["translate", str(checkpoint), *arguments])


def test_pictures_of_any_size_keep_it(given):
    run("Domain", "given", "--to", "day")
    names = {name: f"{name.replace('/', '_')}.png" for name in given}
    assert sorted(path.name for path in Path("translated").iterdir()) == sorted([*names.values(), "sheet.png"])
    for name, image in given.items():
        assert torch.equal(pixels(f"translated/{names[name]}"), expected(image)), name


def test_the_sheet_has_each_source_beside_its_results(given):
    run("Domain", "given", "--to", "[day, night]", "--output", "both")
    written = sorted(path.name for path in Path("both").iterdir())
    assert len(written) == 11 and {"a_day.png", "a_night.png", "sub_a_day.png"} <= set(written)
    sheet, (height, width) = pixels("both/sheet.png"), (23, 15)
    assert sheet.shape == (3, 2 + 3 * height, 2 + 6 * width)  # two pictures of three beside each other
    first = sheet[:, 2 : 2 + height - 2, 2 : 2 + width - 2]
    assert torch.equal(first[:, 6:14, 2:10], given["a"]) and first[:, 0].min() == 255
    result = sheet[:, 2 : 2 + height - 2, 2 + width : 2 * width]
    assert torch.equal(result[:, 6:14, 2:10], expected(given["a"]))


def test_one_picture_and_a_zip_are_read_and_a_zip_is_written(given):
    run("OneWay", "given/c.png", "--output", "one.zip")
    with zipfile.ZipFile("one.zip") as archive:
        assert archive.namelist() == ["c.png"]
        archive.extractall()
    assert torch.equal(pixels("c.png"), expected(given["c"])) and pixels("one.png").shape == (3, 11, 32)
    with zipfile.ZipFile("given.zip", "w") as archive:
        archive.write("given/d.png", "d.png")
    run("OneWay", "given.zip", "--output", "two")
    assert torch.equal(pixels("two/d.png"), expected(given["d"]))


@pytest.mark.parametrize("options", [[], ["--overlap", "0"], ["--overlap", "4", "--batch_size", "2"]])
def test_tiles_make_the_same_of_pictures_pixel_by_pixel(given, monkeypatch, options):
    asked = []
    ask = painting.Painter.ask

    def noted(self, pixels, way, labels):
        asked.append(tuple(pixels["image"].shape[2:]))
        return ask(self, pixels, way, labels)

    monkeypatch.setattr(painting.Painter, "ask", noted)
    run("OneWay", "given", "--tile", "8", *options)
    for name, image in given.items():
        found = pixels(f"translated/{name.replace('/', '_')}.png")
        assert (found.int() - expected(image).int()).abs().max() <= 1
    assert set(asked) == {(8, 8)}


def test_large_pictures_are_cut_into_tiles_by_themselves(given, monkeypatch):
    monkeypatch.setattr(painting, "WHOLE", 64)
    monkeypatch.setattr(painting, "TILE", 8)
    run("OneWay", "given")
    found = pixels("translated/d.png")
    assert found.shape == (3, 21, 5) and (found.int() - expected(given["d"]).int()).abs().max() <= 1


def test_pictures_are_cut_and_resized_where_that_is_asked_for():
    Image.new("L", (40, 20), 200).save("wide.jpg")
    run("OneWay", "wide.jpg", "--resolution", "12")
    assert pixels("translated/wide.png").shape == (3, 12, 12)
    grey = expected(torch.full((3, 12, 12), 200, dtype=torch.uint8))
    assert (pixels("translated/wide.png").int() - grey.int()).abs().max() <= 2


def test_a_stream_of_paths_is_translated_one_by_one(given, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("given/a.png\n\ngiven/sub/a.png\nnowhere.png\ngiven/c.png\n"))
    run("Domain", "-", "--to", "night")
    found = {path.name for path in Path("translated").iterdir()}
    assert found == {"a.png", "a_2.png", "c.png", "sheet.png"}
    assert torch.equal(pixels("translated/a_2.png"), expected(given["sub/a"]))


def test_attributes_are_changed_and_the_others_are_what_most_pictures_show(given):
    run("Attribute", "given/a.png", "--to", "large", "--output", "one")
    assert torch.equal(pixels("one/a.png"), expected(given["a"], [0, 1, 1]))  # most are blue
    run("Attribute", "given/a.png", "--to", "large=0", "--labels", "colour=red", "--output", "two")
    assert torch.equal(pixels("two/a.png"), expected(given["a"], [1, 0, 0]))
    run("Attribute", "given", "--to", "[colour=red, 'colour=blue,large=1']", "--output", "three")
    assert torch.equal(pixels("three/b_colour=red.png"), expected(given["b"], [1, 0, 0]))
    assert torch.equal(pixels("three/sub_a_colour=blue,large=1.png"), expected(given["sub/a"], [0, 1, 1]))


def test_a_recogniser_tells_what_is_not_said(given, monkeypatch):
    class Judge(torch.nn.Module):
        label_names = ("colour=blue", "colour=red", "large", "more")

        def forward(self, images):
            bright = images.float().mean((1, 2, 3))
            wide = torch.where(torch.tensor(images.shape[3] > 8), 1.0, -1.0).expand(len(images))
            logits = torch.stack([-bright, bright, wide, wide], 1)
            return Description(logits, logits)

    monkeypatch.setattr(ways, "load_extractor", lambda name, device: Judge())
    run("Attribute", "given", "--to", "colour=blue", "--recognizer", "judge")
    assert torch.equal(pixels("translated/a.png"), expected(given["a"], [0, 1, 0]))
    assert torch.equal(pixels("translated/c.png"), expected(given["c"], [0, 1, 1]))  # 13 pixels wide
    run("Attribute", "given", "--to", "large=0", "--recognizer", "judge", "--output", "more")
    assert torch.equal(pixels("more/c.png"), expected(given["c"], [1, 0, 0]))


def maps(folder: str, names: list[str], sizes: list[tuple[int, int]], largest: int = 2) -> dict[str, torch.Tensor]:
    """Write label maps: numbers of classes in grey."""
    made = {}
    for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
        made[name] = picture(50 + i, height, width, 1) % (largest + 1)
        path = Path(folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        to_picture(made[name]).save(path)
    return made


def planes(mask: torch.Tensor) -> torch.Tensor:
    return (mask == torch.arange(3)[:, None, None]).float()


def test_label_maps_are_painted():
    given = maps("maps", ["x", "y"], [(8, 8), (6, 9)])
    run("Paired", "maps", maps=True)
    for name, mask in given.items():
        assert torch.equal(pixels(f"translated/{name}.png"), to_bytes(rule(planes(mask)[None]))[0])
    assert pixels("translated/sheet.png").shape == (3, 12, 4 * 11 + 2)


def test_maps_are_painted_by_labels_that_are_said_or_usual(capsys):
    (mask,) = maps("maps", ["x"], [(8, 8)]).values()
    for name, options, labels in (
        ("usual", [], [0.0, 1, 0]),  # blue and small, as most of ``ROWS`` are
        ("said", ["--labels", "colour=red,large"], [1.0, 0, 1]),
        ("tiled", ["--labels", "colour=red", "--tile", "4", "--overlap", "0"], [1.0, 0, 0]),
    ):
        run("Paired", "maps", "--output", name, *options, maps=True, rows=ROWS)
        assert torch.equal(pixels(f"{name}/x.png"), to_bytes(rule(planes(mask)[None], torch.tensor([labels])))[0])
    translating_checkpoint(Path("ignorant.ckpt"), "Paired", maps=True, rows=ROWS[:0])
    for checkpoint, options, message in (
        ("ignorant", [], "paints by labels and knows no usual ones: give --labels, such as colour=red"),
        ("Paired", ["--labels", "colour=pink"], "colour is one of red, blue"),
        ("Paired", ["--recognizer", "judge"], "leave them out"),
    ):
        with pytest.raises(SystemExit):
            main(["translate", f"{checkpoint}.ckpt", "maps", *options])
        assert message in " ".join(capsys.readouterr().err.split())


def test_seeds_paint_the_same_map_in_several_ways(capsys):
    (mask,) = maps("maps", ["x"], [(8, 8)]).values()
    networks, small = "lightning_avatars.networks", {"width": 4, "halvings": 1}
    encoder = part(f"{networks}.feature_encoder.FeatureEncoder", mask_names=PARTS, **small)
    network = part(f"{networks}.pix2pixhd.Pix2PixHDTranslator", source_channels=3, encoder=encoder, blocks=1, **small)
    run("Paired", "maps", "--seeds", "[2,0]", maps=True, generator=network)
    assert {path.name for path in Path("translated").iterdir()} == {"x_seed_2.png", "x_seed_0.png", "sheet.png"}
    module = load_module(Path("Paired.ckpt"))
    for seed in (0, 2):
        made = module.translate({"mask": mask[None]}, seeds=torch.tensor([seed]))
        assert torch.equal(pixels(f"translated/x_seed_{seed}.png"), to_bytes(made)[0])
    first, second = (pixels("translated/sheet.png")[:, 2:10, left : left + 8] for left in (12, 22))
    assert torch.equal(first, pixels("translated/x_seed_2.png")) and not torch.equal(first, second)
    run("Paired", "maps", "--seeds", "[2]", "--output", "one")
    run("Paired", "maps", "--output", "usual")
    assert torch.equal(pixels("one/x.png"), first) and not torch.equal(pixels("usual/x.png"), first)
    for seeds in ("[1,1]", "[-1]", "[]"):
        with pytest.raises(SystemExit):
            run("Paired", "maps", "--seeds", seeds, "--output", "other")
        assert "--seeds must be different whole numbers, 0 or more, got [" in " ".join(capsys.readouterr().err.split())


def test_pictures_and_label_maps_of_the_same_names_go_together(given, capsys):
    known = maps("maps", ["a", "b", "c", "sub/a"], [SIZES[0], SIZES[1], (7, 12), SIZES[4]])
    run("Paired", "given", "--maps", "maps", maps=True, source_channels=1)
    grey = torch.from_numpy(np.array(Image.open("given/b.png").convert("L")))[None]
    source = torch.cat([to_float(grey), planes(known["b"])])[None]
    assert torch.equal(pixels("translated/b.png"), to_bytes(rule(source))[0])
    assert {path.name for path in Path("translated").iterdir()} == {"a.png", "b.png", "sub_a.png", "sheet.png"}
    said = capsys.readouterr().err
    assert "left out, 2 pictures" in said and "d.png: there is no label map of its name in --maps" in said
    assert "c.png: picture and label map are not of one size: 13 x 7 and 12 x 7 pixels" in said


def test_unreadable_pictures_are_named_and_the_rest_is_translated(given, capsys):
    Path("given/b.png").write_bytes(b"no picture")
    run("OneWay", "given")
    said = capsys.readouterr().err
    assert "left out, 1 pictures" in said and "b.png: not a picture of a known format" in said
    assert len(list(Path("translated").iterdir())) == 5 and torch.equal(
        pixels("translated/a.png"), expected(given["a"])
    )


@pytest.mark.parametrize(("kind", "to"), [("Domain", "day"), ("Attribute", "large"), ("OneWay", "day")])
def test_exported_weights_translate_as_their_checkpoint_does(given, kind, to):
    run(kind, "given/c.png", "--to", to, "--output", "first")
    main(["export", "weights", f"{kind}.ckpt", "--output", "weights.safetensors"])
    main(["translate", "weights.safetensors", "given/c.png", "--to", to, "--output", "second"])
    assert torch.equal(pixels("first/c.png"), pixels("second/c.png"))


def test_pictures_of_quite_another_size_than_was_trained_on_are_said(given, capsys):
    run("OneWay", "given/d.png")
    assert "d has 21 pixels a side, and this model was trained on 8" in " ".join(capsys.readouterr().err.split())
    run("OneWay", "given/a.png", "--output", "other")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("Domain", ["given"], "say by --to which way: day or night"),
        ("Domain", ["given", "--to", "dya"], "--to dya: this model translates to day"),
        ("Domain", ["given", "--to", "[day, night, day]"], "--to names 'day' and 'day', whose results would be called"),
        ("Attribute", ["given", "--to", "[large, large=0, large]"], "--to names 'large' and 'large', whose results"),
        ("Domain", ["given", "--to", "day", "--labels", "large"], "leave them out"),
        ("OneWay", ["given", "--to", "night"], "--to night: this model translates to day"),
        ("OneWay", ["given", "--tile", "6"], "--tile must be a multiple of 4 for this model, got 6: take 8"),
        ("OneWay", ["given", "--tile", "8", "--overlap", "5"], "--overlap must be from 0 to half a tile, 4, got 5"),
        ("OneWay", ["given", "--resolution", "9"], "--resolution must be a multiple of 4 for this model, got 9"),
        ("OneWay", ["given", "--resolution", "8", "--tile", "8"], "give one of them"),
        ("OneWay", ["given", "--maps", "given"], "no label maps: leave --maps out"),
        ("OneWay", ["given", "--batch_size", "0"], "batch_size must be at least 1, got 0"),
        ("OneWay", ["nowhere"], "no folder or zip at nowhere"),
        ("OneWay", ["OneWay.ckpt"], "none of OneWay.ckpt could be translated"),
        ("Attribute", ["given"], "say by --to what to change, such as colour=red"),
        ("Attribute", ["given", "--to", "lagre"], "no label is called 'lagre'; the nearest are large"),
        ("Attribute", ["given", "--to", "large", "--labels", "colour=pink"], "colour is one of red, blue"),
        ("OneWay", ["given", "--seeds", "[0,1]"], "FeatureEncoder, as pix2pixhd can have: leave it out"),
        ("Paired", ["given", "--seeds", "[0,1]"], "FeatureEncoder, as pix2pixhd can have: leave it out"),
        ("Paired", ["given", "--to", "day"], "can't obey --to day: leave it out"),
    ],
)
def test_what_cant_be_translated_is_said(given, capsys, kind, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(kind, *arguments, **({"source_channels": 3} if kind == "Paired" else {}))
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and re.search(message, said), said
    assert not Path("translated").exists()


def test_attributes_that_a_model_never_changed_are_refused(given, capsys):
    translating_checkpoint(Path("few.ckpt"), "Attribute", attributes=["large"])
    with pytest.raises(SystemExit):
        main(["translate", "few.ckpt", "given", "--to", "[large, 'large=0,colour=red']"])
    said = " ".join(capsys.readouterr().err.split())
    assert "--to large=0,colour=red: this model was never trained to change colour; it changes large" in said
    assert not Path("translated").exists()
    main(["translate", "few.ckpt", "given/a.png", "--to", "large", "--labels", "colour=red"])
    assert torch.equal(pixels("translated/a.png"), expected(given["a"], [1, 0, 1]))


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"maps": True, "source_channels": 3}, ["given"], "takes a label map with each picture: give them by --maps"),
        ({"maps": True}, ["given", "--maps", "given"], "label maps alone: give them as the pictures"),
        ({"maps": True}, ["given"], "a label map has one channel of class numbers, this picture is RGB"),
        ({"maps": True}, ["many"], r"its label map has class 5, but the model knows 0 to 2"),
        ({"source_channels": 5}, ["given"], "takes sources of 5 planes, which no picture file has"),
    ],
)
def test_maps_that_do_not_fit_are_said(given, capsys, options, arguments, message):
    to_picture(torch.full((1, 8, 8), 5, dtype=torch.uint8)).save("five.png")
    Path("many").mkdir()
    Path("five.png").rename("many/five.png")
    with pytest.raises(SystemExit):
        run("Paired", *arguments, **options)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not Path("translated").exists()


def test_jpegs_are_no_label_maps(capsys):
    maps("maps", ["x"], [(8, 8)])
    Image.open("maps/x.png").save("maps/y.jpg")
    run("Paired", "maps", maps=True)
    assert "y.jpg: a label map must not be a JPEG" in capsys.readouterr().err
    assert {path.name for path in Path("translated").iterdir()} == {"x.png", "sheet.png"}


def test_a_single_file_is_no_output(given, capsys):
    with pytest.raises(SystemExit):
        run("OneWay", "given/a.png", "--output", "b.png")
    assert "--output b.png: results go to a folder or a zip; give b" in " ".join(capsys.readouterr().err.split())
    assert not Path("b.png").exists()


@pytest.mark.parametrize("output", ["full", "there.zip", "sheeted.zip", "file"])
def test_nothing_is_overwritten(given, capsys, output):
    Path("full").mkdir()
    for path in ("full/x.png", "there.zip", "sheeted.png", "file"):
        Path(path).write_text("mine")
    with pytest.raises(SystemExit):
        run("OneWay", "given", "--output", output)
    assert "is there already, and nothing is overwritten" in " ".join(capsys.readouterr().err.split())
    assert Path("full/x.png").read_text() == Path("there.zip").read_text() == Path("sheeted.png").read_text() == "mine"


def test_a_gan_is_said_not_to_translate(tmp_path, given, capsys):
    with pytest.raises(SystemExit):
        main(["translate", str(checkpoint_of(tmp_path / "gan")), "given"])
    assert "holds a Adversarial, which does not translate" in " ".join(capsys.readouterr().err.split())
