import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.data import folder as folder_module
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.paired import PairedFolder
from lightning_avatars.data.store import build
from lightning_avatars.images import coloured
from tests.conf.measuring import shared


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


def picture(i, size=(16, 16)):
    return np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), np.uint8)


def label_map(i, size=(16, 16), classes=5):
    numbers = np.random.default_rng(100 + i).integers(0, classes, (size[1], size[0]), np.uint8)
    numbers[0, 0] = classes - 1
    return numbers


@pytest.fixture
def pairs(tmp_path):
    """Thirty targets, sources that are their negatives, and label maps."""
    root = tmp_path / "pairs"
    for part in ("images", "sources", "maps"):
        (root / part / "sub").mkdir(parents=True)
    for i in range(30):
        name = f"sub/{i:02}" if i % 3 else f"{i:02}"
        Image.fromarray(picture(i)).save(root / "images" / f"{name}.png")
        Image.fromarray(255 - picture(i)).save(root / "sources" / f"{name}.bmp")
        Image.fromarray(label_map(i)).save(root / "maps" / f"{name}.png")
    return root


def number(name):
    return int(name.removeprefix("sub/")[:2])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_pairs_of_equal_names_hold_target_source_and_map(pairs, packed, several, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "FEW", 0 if several else 1000)
    if packed:
        with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
            for file in sorted(pairs.rglob("*.*")):
                archive.write(file, file.relative_to(pairs))
        pairs = tmp_path / "pairs.zip"
    dataset = PairedFolder(pairs / "images", pairs / "sources", pairs / "maps", classes=5)
    store = build(dataset, 16)
    assert dataset.name == "pairs" and (dataset.channels, dataset.source_channels) == (3, 3)
    assert dataset.mask_names == ["class_0", "class_1", "class_2", "class_3", "class_4"] and len(store) == 30
    for place, name in enumerate(store.names):
        index = np.array([place])
        assert (store.read(index)[0] == picture(number(name)).transpose(2, 0, 1)).all()
        assert (store.read(index, "sources")[0] == 255 - picture(number(name)).transpose(2, 0, 1)).all()
        assert (store.read(index, "masks")[0, 0] == label_map(number(name))).all()


def test_maps_alone_make_pairs_and_are_never_interpolated(pairs):
    dataset = PairedFolder(pairs / "images", maps=pairs / "maps", classes=["a", "b", "c", "d", "e"])
    store = build(dataset, 4)
    assert (
        dataset.source_channels == 0
        and dataset.mask_names == list("abcde")
        and list(store.planes) == ["images", "masks"]
    )
    nearest = ((np.arange(4) + 0.5) * 4).astype(int)
    for place, name in enumerate(store.names):
        assert (store.read(np.array([place]), "masks")[0, 0] == label_map(number(name))[nearest][:, nearest]).all()


@pytest.mark.parametrize("half", ["left", "right"])
def test_two_pictures_side_by_side_are_a_pair(half, tmp_path):
    (tmp_path / "both").mkdir()
    for i in range(30):
        halves = [picture(i, (16, 12)), 255 - picture(i, (16, 12))]
        Image.fromarray(np.concatenate(halves, 1)).save(tmp_path / "both" / f"{i:02}.png")
    dataset = PairedFolder(tmp_path / "both", source_half=half, source_channels=1)
    store = build(dataset, 12)
    assert dataset.name == "both" and dataset.source_channels == 1
    for i in range(30):
        left = picture(i, (16, 12))[:, 2:14]
        right = 255 - left
        source, image = (left, right) if half == "left" else (right, left)
        assert (store.read(np.array([i]))[0] == image.transpose(2, 0, 1)).all()
        assert (store.read(np.array([i]), "sources")[0, 0] == np.asarray(Image.fromarray(source).convert("L"))).all()
    Image.new("RGB", (25, 12)).save(tmp_path / "both/odd.png")
    with pytest.raises(
        ValueError, match=r"odd\.png: 25 x 12 pixels are not two pictures side by side: the width is odd"
    ):
        build(dataset, 12)
    Image.new("RGB", (12, 12)).save(tmp_path / "both/odd.png")
    with pytest.raises(ValueError, match=r"odd\.png: 12 x 12 pixels are not two pictures .*: not wider than high"):
        build(dataset, 12)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pairs_of_two_sizes_are_cut_alike(fit, tmp_path):
    """A map of half the size has the edge of its square where the picture has it."""
    for part in ("images", "maps"):
        (tmp_path / part).mkdir()
    for i in range(20):
        edge = 4 + i  # the left part, as wide as that in a map of 30 x 20
        numbers = np.where(np.arange(30) < edge, 0, 1).astype(np.uint8)[None].repeat(20, 0)
        Image.fromarray(numbers).save(tmp_path / f"maps/{i:02}.png")
        Image.fromarray(numbers.repeat(2, 0).repeat(2, 1) * 255).save(tmp_path / f"images/{i:02}.png")
    dataset = PairedFolder(
        tmp_path / "images", maps=tmp_path / "maps", classes=2, fit=fit, background="black", channels=1
    )
    store = build(dataset, 40)
    image, mask = store.read(np.arange(20)), store.read(np.arange(20), "masks")
    assert (abs(image / 255.0 - mask) > 0.5).mean() < 0.002  # Lanczos and the nearest pixel differ at edges alone
    assert mask.max() == 1 and (mask[:, :, 20, 39] == 1).all()


def test_published_splits_are_the_folders_names(tmp_path):
    for i in range(12):
        split = ("train", "val", "test")[i % 3]
        for part in ("a", "b"):
            (tmp_path / part / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(i)).save(tmp_path / part / split / f"{i:02}.png")
    store = build(PairedFolder(tmp_path / "a", tmp_path / "b", split="standard"), 8)
    assert store.counts() == {"train": 4, "val": 4, "test": 4}
    assert all(store.names[i].startswith("val/") for i in store.split("val"))


@pytest.mark.parametrize("part", ["sources", "maps"])
def test_what_is_translated_is_in_one_split_whatever_it_becomes(pairs, part):
    """Of 30 targets each three have one source, and the splits of the others are what they would be."""
    files = sorted((pairs / part).rglob("*.*"))
    classes = {"classes": 5} if part == "maps" else {}
    alone = build(PairedFolder(pairs / "images", **{part: pairs / part}, **classes), 8).splits.copy()
    for i, file in enumerate(files[:15]):
        file.write_bytes(files[i // 3 * 3].read_bytes())
    store = build(PairedFolder(pairs / "images", **{part: pairs / part}, **classes), 8)
    shared = store.splits[:15].reshape(5, 3)
    assert (shared == shared[:, :1]).all() and (alone[:15].reshape(5, 3) != alone[:15:3, None]).any()
    assert (store.splits[15:] == alone[15:]).all()


def test_pairs_that_do_not_match_are_named(pairs):
    dataset = PairedFolder(pairs / "images", pairs / "sources", pairs / "maps", classes=5)
    (pairs / "sources/03.bmp").rename(pairs / "sources/3.bmp")
    with pytest.raises(
        ValueError, match=r"1 pictures of .*images have no source of the same name in .*: '03\.png' \(those"
    ):
        build(dataset, 8)
    (pairs / "sources/3.bmp").rename(pairs / "sources/03.bmp")
    (pairs / "images/sub/01.png").unlink()
    with pytest.raises(ValueError, match=r"1 of .*sources have no picture of the same name in .*images: 'sub/01\.bmp'"):
        build(dataset, 8)
    Image.new("RGB", (8, 8)).save(pairs / "images/03.bmp")
    with pytest.raises(ValueError, match=r"images has 03\.bmp and 03\.png, which differ in the suffix alone"):
        build(dataset, 8)


def test_a_class_that_the_configuration_does_not_know_is_named_with_its_file(pairs):
    with pytest.raises(ValueError, match=r"maps/00\.png has class 4, but the configuration knows 4 classes, 0 to 3"):
        build(PairedFolder(pairs / "images", maps=pairs / "maps", classes=4), 16)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: Image.new("RGB", (16, 16)).save(path), "its mask sub/01.png: a label map has one channel"),
        (lambda path: Image.new("L", (16, 16)).save(path, "JPEG"), "01.png: a label map must not be a JPEG"),
        (lambda path: Image.fromarray(np.full((16, 16), 300, np.uint16)).save(path), "numbers are 0 to 255, .*300"),
        (lambda path: Image.new("L", (16, 12)).save(path), r"sub/01\.png: 16 x 16 pixels, but its mask has 16 x 12"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), r"its mask sub/01\.png: "),
    ],
)  # fmt: skip
def test_a_pair_with_a_broken_part_is_left_out_and_listed(pairs, spoil, match):
    spoil(pairs / "maps/sub/01.png")
    dataset = PairedFolder(pairs / "images", maps=pairs / "maps", classes=5)
    with pytest.raises(ValueError, match=match):
        build(dataset, 16)
    dataset.max_rejected = 0.1
    store = build(dataset, 16)
    assert len(store) == 29 and [name for name, _ in store.rejected] == ["sub/01.png"]


def test_a_palettes_picture_is_the_map_of_its_places(pairs):
    colours = Image.fromarray(label_map(1), "P")
    colours.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 5, 5, 5, 9, 9, 9])
    colours.save(pairs / "maps/sub/01.png")
    store = build(PairedFolder(pairs / "images", maps=pairs / "maps", classes=5), 16)
    place = list(store.names).index("sub/01.png")
    assert (store.read(np.array([place]), "masks")[0, 0] == label_map(1)).all()


def test_contradictions_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="sources are asked for twice"):
        PairedFolder(tmp_path, tmp_path, source_half="left")
    with pytest.raises(ValueError, match="Give sources, source_half or maps"):
        PairedFolder(tmp_path)
    with pytest.raises(ValueError, match="go together"):
        PairedFolder(tmp_path, tmp_path, classes=3)
    for background in ("whit", "#ffffff80"):
        with pytest.raises(ValueError, match=f"background is '{background}'; it must be an opaque colour"):
            PairedFolder(tmp_path, tmp_path, background=background)
    for classes in (1, 257, ["a", "a"]):
        with pytest.raises(ValueError, match="2 to 256 different names"):
            PairedFolder(tmp_path, maps=tmp_path, classes=classes)


def test_a_changed_source_or_map_is_noticed(pairs):
    dataset = PairedFolder(pairs / "images", pairs / "sources", pairs / "maps", classes=5)
    first = build(dataset, 8)
    Image.fromarray(picture(99)).save(pairs / "sources/00.bmp")
    second = build(dataset, 8)
    Image.fromarray(label_map(99)).save(pairs / "maps/00.png")
    third = build(dataset, 8)
    assert len({store.key for store in (first, second, third)}) == 3
    assert (second.read(np.array([0]), "sources") != first.read(np.array([0]), "sources")).any()
    assert json.dumps(dataset.fingerprint())


def test_each_class_has_a_colour():
    maps = torch.arange(19, dtype=torch.uint8).reshape(1, 1, 1, 19)
    colours = coloured(maps, 19)
    assert colours.shape == (1, 3, 1, 19) and colours.dtype == torch.uint8
    assert len({tuple(one.tolist()) for one in colours[0, :, 0].T}) == 19 and colours[0, :, 0, 0].tolist() == [0, 0, 0]


def test_real_photos_and_part_maps(monkeypatch):
    monkeypatch.setattr(folder_module, "FEW", 10_000)  # processes would take longer to start
    path = shared("data/celeba_masks128/pairs.zip")
    with zipfile.ZipFile(path) as archive:
        first = np.asarray(Image.open(io.BytesIO(archive.read("masks/000114.png"))))
    data = FaceData(PairedFolder(path / "images", maps=path / "masks", classes=19), 128, 4, horizontal_flip=True)
    data.prepare_data()
    data.setup("fit")
    assert len(data.store) == 1500 and data.store.rejected == [] and data.dataset.name == "pairs"
    assert data.store.names[0] == "000114.jpg" and (data.store.read(np.array([0]), "masks")[0, 0] == first).all()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 128, 128) and batch["mask"].shape == (4, 1, 128, 128)
    assert batch["mask"].max() < 19
