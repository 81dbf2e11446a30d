import logging
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightning_avatars.data.celeba import CelebA, by_number
from lightning_avatars.data.store import build
from tests.conf.measuring import shared

NAMES = [f"{i:06}.png" for i in (*range(1, 29), 162_770, 162_771, 182_637, 182_638)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def celeba(tmp_path):
    folder = tmp_path / "celeba"
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (218, 178, 3), np.uint8)).save(images / name)
    rows = [f"{name} {2 * (i % 2) - 1} {2 * (i % 3 == 0) - 1}" for i, name in enumerate(NAMES)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(NAMES)), "Smiling Young", *rows, ""]))
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} {i % 10}\n" for i, name in enumerate(NAMES)))
    return folder


def test_attributes_identities_and_the_square(celeba):
    dataset = CelebA(celeba)
    store = build(dataset, 148)
    assert dataset.name == "celeba" and dataset.label_names == ["Smiling", "Young"] == store.label_names
    assert store.labels.tolist() == [[i % 2, i % 3 == 0] for i in range(32)]
    assert list(store.identities) == [str(i % 10) for i in range(32)]
    assert all(len(set(store.splits[i::10])) == 1 for i in range(10))
    expected = np.asarray(Image.open(celeba / "img_align_celeba" / NAMES[5]))[35:183, 15:163]
    assert (store.read(np.array([5]))[0] == expected.transpose(2, 0, 1)).all()


def test_the_published_split_by_number_and_by_file(celeba):
    store = build(CelebA(celeba, split="standard"), 8)
    assert store.splits.tolist() == [0] * 29 + [1, 1, 2]
    lines = [f"{name} {i % 3}\n" for i, name in enumerate(NAMES)]
    (celeba / "list_eval_partition.txt").write_text("".join(lines))
    assert build(CelebA(celeba, split="standard"), 8).splits.tolist() == [i % 3 for i in range(32)]
    (celeba / "list_eval_partition.txt").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"000001\.png is in none"):
        build(CelebA(celeba, split="standard"), 8)


def test_published_counts():
    splits = [by_number(f"{i:06}.jpg") for i in range(1, 202_600)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [162_770, 19_867, 19_962]
    assert by_number("someone.jpg") is None


def test_a_zip_in_the_official_subfolders_is_the_same(celeba, tmp_path):
    folder = tmp_path / "official"
    for part in ("Img", "Anno", "Eval"):
        (folder / part).mkdir(parents=True)
    with zipfile.ZipFile(folder / "Img/img_align_celeba.zip", "w") as archive:
        for name in NAMES:
            archive.write(celeba / "img_align_celeba" / name, f"img_align_celeba/{name}")
    for name in ("list_attr_celeba.txt", "identity_CelebA.txt"):
        (folder / "Anno" / name).write_text((celeba / name).read_text())
    a, b = build(CelebA(celeba), 16), build(CelebA(folder), 16)
    assert (a.read(np.arange(32)) == b.read(np.arange(32))).all() and (a.splits == b.splits).all()
    assert (a.labels == b.labels).all() and list(a.names) == list(b.names) == NAMES


def test_missing_identities_are_said(celeba, caplog):
    (celeba / "identity_CelebA.txt").unlink()
    with caplog.at_level(logging.WARNING):
        assert build(CelebA(celeba), 8).identities is None
    assert "identity_CelebA.txt" in caplog.text and "one person may be in two splits" in caplog.text


def test_columns(celeba):
    assert build(CelebA(celeba, columns=["Young"]), 8).labels[:, 0].tolist() == [i % 3 == 0 for i in range(32)]
    with pytest.raises(ValueError, match="no column 'young'; did you mean Young"):
        build(CelebA(celeba, columns=["young"]), 8)
    (celeba / "list_attr_celeba.txt").unlink()
    assert build(CelebA(celeba, columns=[]), 8).labels.shape == (32, 0)
    with pytest.raises(FileNotFoundError, match=r"no attribute table at .*list_attr_celeba\.txt"):
        build(CelebA(celeba), 8)


def test_bad_input_is_named(celeba, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or zip at .*img_align_celeba\.zip"):
        build(CelebA(tmp_path / "nowhere"), 8)
    with pytest.raises(ValueError, match=r"crop is 1\.5"):
        CelebA(celeba, crop=1.5)
    (celeba / "identity_CelebA.txt").write_text("000001.png 1 2\n")
    with pytest.raises(ValueError, match=r"identity_CelebA\.txt is not as published"):
        build(CelebA(celeba), 8)


def test_real_celeba():
    store = build(CelebA(shared("data/celeba10k")), 32)
    assert len(store) == 10_000 and store.rejected == [] and store.labels.shape == (10_000, 40)
    assert (store.sizes == [89, 109]).all() and set(np.unique(store.labels)) == {0, 1}
    assert store.label_names[0] == "5_o_Clock_Shadow" and store.names[0] == "000001.jpg"
    people = np.array(list(store.identities))
    assert store.identities[0] == "2880"
    splits = [set(people[store.split(name)]) for name in ("train", "val", "test")]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]
    assert abs(len(store.split("train")) / 10_000 - 0.7) < 0.03
    mean = store.read(np.arange(1000)).mean(axis=(0, 2, 3))
    assert 80 < mean[2] < mean[1] < mean[0] < 160  # faces are warmer than gray
