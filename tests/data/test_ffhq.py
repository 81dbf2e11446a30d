import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightning_avatars.data.ffhq import FFHQ
from lightning_avatars.data.store import build

NUMBERS = [0, 1, 999, 1000, 49_999, 50_000, 59_999, 60_000, 69_999]
STANDARD = [0, 0, 0, 0, 0, 1, 1, 2, 2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "thumbnails128x128"
    for number in NUMBERS:
        file = folder / f"{number // 1000 * 1000:05}" / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    return folder


@pytest.fixture
def table(tmp_path):
    entry = {number: {"category": "training", "metadata": {"photo_url": f"photo {number % 2}"}} for number in NUMBERS}
    entry[69_999]["category"] = entry[60_000]["category"] = "validation"
    path = tmp_path / "ffhq-dataset-v2.json"
    path.write_text(json.dumps(entry))
    return path


def test_folder_zip_and_the_published_split(images, table, tmp_path):
    folder = build(FFHQ(images, split="standard"), 16)
    assert folder.splits.tolist() == STANDARD and folder.labels.shape == (9, 0) and folder.identities is None
    with zipfile.ZipFile(tmp_path / "thumbnails128x128.zip", "w") as archive:
        for file in images.rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))
    zipped = build(FFHQ(tmp_path / "thumbnails128x128.zip", json=table, split="standard"), 16)
    assert list(zipped.names) == list(folder.names) and zipped.splits.tolist() == STANDARD
    assert (zipped.read(np.arange(9)) == folder.read(np.arange(9))).all()
    expected = np.asarray(Image.open(images / "00000/00999.png")).transpose(2, 0, 1)
    assert (folder.read(np.array([2]))[0] == expected).all()


def test_faces_of_one_photo_stay_together(images, table):
    store = build(FFHQ(images, json=table), 8)
    assert list(store.identities) == [f"photo {number % 2}" for number in NUMBERS]
    odd = np.array(NUMBERS) % 2 == 1
    assert len(set(store.splits[odd])) == len(set(store.splits[~odd])) == 1


def test_bad_input_is_named(images, table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no FFHQ JSON at .*none\.json"):
        build(FFHQ(images, json=tmp_path / "none.json"), 8)
    entries = json.loads(table.read_text())
    del entries["1000"]
    table.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"has no entry for 01000/01000\.png"):
        build(FFHQ(images, json=table), 8)
    for text in ("[]", '{"0": {}}', "{"):
        table.write_text(text)
        with pytest.raises(ValueError, match="is not FFHQ's JSON"):
            build(FFHQ(images, json=table), 8)
    (images / "00000/00000.png").rename(images / "me.png")
    with pytest.raises(ValueError, match=r"me\.png is not called like a picture of FFHQ"):
        build(FFHQ(images), 8)
