import gzip
import struct

import numpy as np
import pytest

from lightning_avatars.data.mnist import MNIST
from lightning_avatars.data.store import build
from tests.conf.measuring import shared


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    folder, rng = tmp_path / "mnist", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 20)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx(rng.integers(0, 256, (count, 28, 28), np.uint8)))
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return folder


def test_digits_are_padded_to_32_and_kept_at_28(mnist):
    dataset = MNIST(mnist)
    padded, plain, large = (build(dataset, resolution).read(np.arange(60)) for resolution in (32, 28, 64))
    assert dataset.channels == 1 and padded.shape == (60, 1, 32, 32) and large.shape == (60, 1, 64, 64)
    assert (padded[..., 2:-2, 2:-2] == plain).all() and padded.sum() == plain.sum()
    assert (plain[0] == np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)[0]).all()
    assert abs(large.mean() - plain.mean()) < 1


def test_labels_names_and_splits(mnist):
    store = build(MNIST(mnist, split="standard"), 32)
    assert store.label_names == [f"digit={i}" for i in range(10)]
    assert (store.labels.argmax(1) == [*np.arange(40) % 10, *np.arange(20) % 10]).all()
    assert (store.labels.sum(1) == 1).all()
    assert store.names[0] == "train/00000" and store.names[40] == "t10k/00000"
    assert store.splits.tolist() == [0] * 40 + [2] * 20
    with pytest.raises(ValueError, match=r"val split of mnist.* is empty \(40 train, 0 val, 20 test\)"):
        store.split("val")
    assert set(build(MNIST(mnist), 32).splits) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-labels-idx1-ubyte", b"<html>", "is no idx file of bytes in 1 dimensions .it begins 3c68746d"),
        ("train-labels-idx1-ubyte", idx(np.zeros((2, 2), np.uint8)), "is no idx file"),
        ("train-labels-idx1-ubyte", idx(np.zeros(40, np.uint8))[:-1], "holds 39 bytes, its header announces 40"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\x01\0", "get it again"),
        ("train-labels-idx1-ubyte", idx(np.zeros(39, np.uint8)), "has 40 images, .* has 39 labels"),
        ("train-labels-idx1-ubyte", idx(np.full(40, 10, np.uint8)), "has a label 10"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "t10k-images.* cannot be read"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(bytes(9999))[:-9], "t10k-images.* cannot be read"),
    ],
)
def test_broken_files_are_named(mnist, name, data, message):
    (mnist / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        build(MNIST(mnist), 32)


def test_a_missing_file_is_named(mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz in .*mnist"):
        build(MNIST(mnist), 32)


def test_real_mnist():
    store = build(MNIST(shared("data/mnist"), split="standard"), 32)
    assert store.counts() == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert store.labels[:5].argmax(1).tolist() == [5, 0, 4, 1, 9]
    assert store.labels[60_000:60_003].argmax(1).tolist() == [7, 2, 1]
    images = store.read(np.arange(60_000))[..., 2:-2, 2:-2]
    assert abs(images.mean() / 255 - 0.1307) < 1e-4 and abs(images.std() / 255 - 0.3081) < 1e-4
