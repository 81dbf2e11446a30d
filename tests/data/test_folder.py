import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightning_avatars.data import folder as folder_module
from lightning_avatars.data.folder import ImageFolder
from lightning_avatars.data.store import build


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    (folder / "sub").mkdir(parents=True)
    for i in range(30):
        save(folder / (f"sub/{i:02}.png" if i % 3 else f"{i:02}.png"), i)
    return folder


def save(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(path)


def by_name(store):
    return {name: store.splits[i] for i, name in enumerate(store.names)}


def pack(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_becomes_a_store(faces):
    dataset = ImageFolder(faces)
    store = build(dataset, 10)
    assert dataset.name == "faces" and dataset.channels == 3 and dataset.label_names == []
    assert len(store) == 30 and store.labels.shape == (30, 0) and store.identities is None
    assert list(store.names) == sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.png"))
    assert (store.sizes == [10, 12]).all()
    for i, name in enumerate(store.names):
        expected = np.asarray(Image.open(faces / name))[1:11].transpose(2, 0, 1)
        assert (store.read(np.array([i]))[0] == expected).all()


def test_a_zip_and_several_processes_give_the_same(faces, tmp_path, monkeypatch):
    plain = build(ImageFolder(faces), 8)
    for path in (pack(faces, tmp_path / "zipped.zip"), shutil.copytree(faces, tmp_path / "copied")):
        monkeypatch.setattr(folder_module, "FEW", 5)
        store = build(ImageFolder(path), 8)
        assert list(store.names) == list(plain.names) and (store.splits == plain.splits).all()
        assert (store.read(np.arange(30)) == plain.read(np.arange(30))).all()
        assert (store.digests == plain.digests).all()


def test_a_second_start_decodes_nothing(faces, monkeypatch):
    first = build(ImageFolder(faces), 8)
    monkeypatch.setattr(ImageFolder, "pictures", lambda *_: pytest.fail("built again"))
    assert build(ImageFolder(faces), 8).directory == first.directory


def test_a_changed_picture_is_prepared_again(faces):
    before = build(ImageFolder(faces), 8)
    place = list(before.names).index("03.png")
    save(faces / "03.png", 999)
    after = build(ImageFolder(faces), 8)
    assert after.directory != before.directory
    assert (after.read(np.array([place])) != before.read(np.array([place]))).any()


def test_added_pictures_move_no_other_and_copies_stay_together(faces):
    before = by_name(build(ImageFolder(faces), 8))
    for i in range(100, 130):
        save(faces / f"{i}.png", i)
        shutil.copy(faces / f"{i}.png", faces / f"sub/copy{i}.png")
        Image.open(faces / f"{i}.png").save(faces / f"sub/copy{i}.bmp")
    after = by_name(build(ImageFolder(faces), 8))
    assert len(after) == 120 and set(after.values()) == {0, 1, 2}
    assert {name: after[name] for name in before} == before
    for i in range(100, 130):
        assert after[f"{i}.png"] == after[f"sub/copy{i}.png"] == after[f"sub/copy{i}.bmp"]


def test_labels_come_from_the_table(faces, tmp_path):
    names = [path.relative_to(faces).as_posix() for path in faces.rglob("*.png")]
    table = tmp_path / "table.csv"
    table.write_text("file,number,parity\n" + "".join(f"{n},{n[-6:-4]},{'eo'[int(n[-5]) % 2]}\n" for n in names))
    dataset = ImageFolder(faces, attributes=table)
    store = build(dataset, 8)
    assert dataset.label_names == ["number", "parity=e", "parity=o"] == store.label_names
    for name, labels in zip(store.names, store.labels.tolist(), strict=True):
        number = int(name[-6:-4])
        assert labels == [number, number % 2 == 0, number % 2 == 1]
    chosen = build(ImageFolder(faces, attributes=table, columns=["parity"]), 8)
    assert chosen.label_names == ["parity=e", "parity=o"] and (chosen.labels == store.labels[:, 1:]).all()
    table.write_text(table.read_text().replace("00.png,00,e", "00.png,50,e"))
    assert build(ImageFolder(faces, attributes=table), 8).labels[:, 0].max() == 50


def test_tables_and_pictures_must_match(faces, tmp_path):
    names = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.png"))
    table = tmp_path / "table.csv"
    table.write_text("file,x\n" + "".join(f"{name},1\n" for name in [*names, "gone.png"]))
    with pytest.raises(ValueError, match=r"table\.csv names 1 pictures that are not in .*faces, such as 'gone\.png'"):
        build(ImageFolder(faces, attributes=table), 8)
    table.write_text("file,x\n" + "".join(f"{name},1\n" for name in names[2:]))
    with pytest.raises(ValueError, match=r"table\.csv has no row for 2 pictures of .*faces: '00\.png', '03\.png'"):
        build(ImageFolder(faces, attributes=table), 8)
    with pytest.raises(ValueError, match=r"table\.csv has no column 'y'"):
        build(ImageFolder(faces, attributes=table, columns=["y"]), 8)
    with pytest.raises(FileNotFoundError, match=r"no attribute table at .*none\.csv"):
        build(ImageFolder(faces, attributes=tmp_path / "none.csv"), 8)
    with pytest.raises(ValueError, match="attributes names no table"):
        ImageFolder(faces, columns=["x"])


@pytest.mark.parametrize("several", [False, True])
def test_broken_pictures_are_left_out_up_to_the_limit(faces, several, monkeypatch):
    monkeypatch.setattr(folder_module, "FEW", 0 if several else 1000)
    (faces / "fake.jpg").write_text("<html>")
    (faces / "gone.png").symlink_to("nowhere.png")
    data = (faces / "03.png").read_bytes()
    (faces / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ValueError, match=r"3 of 33 pictures of faces.*9\.1%(.|\n)*cut\.png: .*trunc(.|\n)*fake\.jpg: not a"
    ):
        build(ImageFolder(faces), 8)
    store = build(ImageFolder(faces, max_rejected=0.1), 8)
    assert [name for name, _ in store.rejected] == ["cut.png", "fake.jpg", "gone.png"] and len(store) == 30


def test_a_damaged_zip_member_is_named(faces, tmp_path):
    path = pack(faces, tmp_path / "faces.zip")
    data = bytearray(path.read_bytes())
    data[200] ^= 255  # inside the first picture: its checksum no longer fits
    path.write_bytes(data)
    store = build(ImageFolder(path, max_rejected=0.1), 8)
    assert len(store) == 29 and store.rejected[0][0] == "00.png" and "CRC" in store.rejected[0][1]


def test_gray_and_padded(faces):
    gray, padded = build(ImageFolder(faces, channels=1), 12), build(ImageFolder(faces, fit="pad"), 12)
    assert gray.read(np.arange(3)).shape == (3, 1, 12, 12)
    images = padded.read(np.arange(30))
    assert (images[..., 0] == 255).all() and (images[..., -1] == 255).all()
    name = padded.names[4]
    assert (images[4, :, :, 1:-1] == np.asarray(Image.open(faces / name)).transpose(2, 0, 1)).all()


def test_bad_paths_and_colours_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or zip at .*nowhere"):
        build(ImageFolder(tmp_path / "nowhere"), 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*empty"):
        build(ImageFolder(tmp_path / "empty"), 8)
    with pytest.raises(ValueError, match="background is 'whiteish'; it must be an opaque colour"):
        ImageFolder(tmp_path, background="whiteish")
    with pytest.raises(ValueError, match="opaque"):
        ImageFolder(tmp_path, background="#ffffff00")


def test_a_tiny_folder_says_that_a_split_is_empty(tmp_path):
    (tmp_path / "tiny").mkdir()
    save(tmp_path / "tiny/one.png", 0)
    store = build(ImageFolder(tmp_path / "tiny"), 8)
    empty = [name for name, count in store.counts().items() if not count]
    with pytest.raises(ValueError, match=f"the {empty[0]} split of tiny-8-.* is empty"):
        store.split(empty[0])
    with pytest.raises(ValueError, match="no published split"):
        build(ImageFolder(tmp_path / "tiny", split="standard"), 8)
