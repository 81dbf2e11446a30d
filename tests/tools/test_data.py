import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.domains import DomainFolders
from lightning_avatars.data.folder import ImageFolder
from lightning_avatars.data.paired import PairedFolder
from lightning_avatars.images import coloured
from lightning_avatars.tools.data import copies_of, data


@pytest.fixture
def faces(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(40):
        size = (6, 6) if i == 7 else (30, 20)
        Image.new("RGB", size, (i, 2 * i, 3 * i)).save(folder / f"{i:02}.png")
    Image.new("RGB", (30, 20), (5, 10, 15)).save(folder / "copy.png")
    (folder / "fake[b].png").write_text("text")
    table = tmp_path / "table.csv"
    names = sorted(path.name for path in folder.iterdir())
    table.write_text("file,first,sort\n" + "".join(f"{n},{int(n < '10')},{'ab'[n < '20']}\n" for n in names))
    return folder, table


def test_everything_is_shown(faces, tmp_path, capsys, monkeypatch):
    folder, table = faces
    monkeypatch.chdir(tmp_path)
    data(FaceData(ImageFolder(folder, table, max_rejected=0.1), resolution=16))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    store = next((tmp_path / "cache/data").glob("faces-16-*/store.json")).parent
    splits = np.load(store / "splits.npy")
    for place, name in enumerate(("train", "val", "test")):
        count = int((splits == place).sum())
        assert f"{name} pictures {count} ({count / 41:.1%})" in shown
    assert "rejected pictures 1" in shown and "exact copies 1 " in shown
    assert "source sizes 6 x 6 to 30 x 20, mostly 30 x 20" in shown and "enlarged pictures 1 " in shown
    assert "fake[b].png not a picture of a known format" in shown
    labels = np.load(store / "labels.npy")
    shares = [f"{labels[splits == place, 2].mean():.3f}" for place in range(3)]
    assert f"sort=b {' '.join(shares)}" in shown
    assert "A sheet of pictures: runs/data/faces-16.png" in shown
    with Image.open("runs/data/faces-16.png") as sheet:
        assert sheet.size == (12 * 18 + 2, 4 * 18 + 2)


def test_the_sheet_goes_where_it_is_asked_for(faces, tmp_path):
    dataset = ImageFolder(*faces, split=(0.8, 0.2, 0), max_rejected=0.1)
    data(FaceData(dataset, resolution=16), tmp_path / "look/here.png")
    assert (tmp_path / "look/here.png").is_file()


def test_copies_are_counted():
    digests = np.arange(16 * 4, dtype=np.uint8).reshape(4, 16)[[0, 1, 0, 2, 0, 3, 3]]
    assert copies_of(digests, np.array([0, 0, 0, 1, 2, 1, 1], np.uint8)) == (3, 1)


def test_pairs_have_their_maps_and_sources_beside_them(faces, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "pairs"
    for part in ("images", "sources", "maps"):
        (folder / part).mkdir(parents=True)
    for i in range(30):
        Image.new("L", (16, 16), 100 + i).save(folder / "images" / f"{i:02}.png")
        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / "sources" / f"{i:02}.png")
        Image.new("L", (16, 16), 2 * (i < 15)).save(folder / "maps" / f"{i:02}.png")
    dataset = PairedFolder(folder / "images", folder / "sources", folder / "maps", classes=["a", "b", "c"], channels=1)
    data(FaceData(dataset, resolution=16), tmp_path / "sheet.png")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "sources 3 channels" in shown and "label maps 3 classes" in shown
    assert "0 a 50.00% 50.0% " in shown and "1 b 0.00% 0.0% " in shown and "2 c 50.00% 50.0% " in shown
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 18 + 2, 8 * 18 + 2)  # four pairs of three pictures a row
        first, second, third = (sheet.getpixel((2 + 18 * i, 2)) for i in range(3))
    colour = tuple(coloured(torch.full((1, 1, 1, 1), 2), 3)[0, :, 0, 0].tolist())
    assert (first, second, third) == ((0, 0, 0), colour, (100, 100, 100))


def test_each_domain_is_counted_and_has_rows_of_its_own(faces, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(9):
        Image.new("RGB", (16, 16), (250, i, 0)).save(few / f"{i}.png")
    dataset = DomainFolders({"few": few, "faces": faces[0]}, max_rejected=0.1)
    data(FaceData(dataset, resolution=16), tmp_path / "sheet.png")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    (store,) = (tmp_path / "cache/data").glob("few_faces-16-*/store.json")
    splits = np.load(store.parent / "splits.npy")
    assert f"few {' '.join(str((splits[:9] == place).sum()) for place in range(3))} faces" in shown
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (9 * 18 + 2, 5 * 18 + 2)  # nine in a row: one row of the few, four of the faces
        assert sheet.getpixel((2, 2))[0] == 250 > sheet.getpixel((2, 20))[0]
