import errno
import json
import logging
import multiprocessing
import pickle
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from lightning_avatars.data import store as store_module
from lightning_avatars.data import writer
from lightning_avatars.data.base import FaceDataset, Picture
from lightning_avatars.data.cache import CacheError
from lightning_avatars.data.store import build


class Noise(FaceDataset):
    """Random pictures; notes in a file that it was asked for them."""

    def __init__(self, count=60, channels=3, log: Path | None = None, bad=(), identities=None, **settings) -> None:
        super().__init__(**settings)
        self.count, self.channels, self.log, self.bad, self.identities = count, channels, log, bad, identities

    name = "noise & more"
    label_names = ("a", "b")

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        if self.log:
            with self.log.open("a") as file:
                file.write("built\n")
        for i in range(self.count):
            image = pixels(i, self.channels, resolution)
            labels = np.array([i, -i], np.float32)
            digest = blake2b(image.tobytes(), digest_size=16).digest()
            who = self.identities[i] if self.identities else None
            if i in self.bad:
                yield Picture(f"bad{i}.png", None, labels, error="cut off")
            else:
                yield Picture(f"ünit {i}.png", image, labels, digest, who, size=(i + 1, 7))


def pixels(i, channels, resolution):
    return np.random.default_rng(i).integers(0, 256, (channels, resolution, resolution), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("limit", [store_module.RAW_LIMIT, 0, 3000])
def test_what_is_read_is_what_was_written(channels, limit, monkeypatch):
    monkeypatch.setattr(writer, "BUFFER", 16 * 8 * 8 * channels)  # 16 pictures at a time: past 3000 bytes midway
    store = build(Noise(channels=channels), 8, raw_limit=limit)
    index = np.random.default_rng(0).permutation(60)
    images = store.read(index)
    assert images.dtype == np.uint8 and images.flags.writeable and images.flags.c_contiguous
    assert (images == np.stack([pixels(i, channels, 8) for i in index])).all()
    images[:] = 0
    assert (store.read(index[:1])[0] == pixels(index[0], channels, 8)).all()
    assert store.compressed == (limit < store_module.RAW_LIMIT)
    assert (store.labels == np.array([[i, -i] for i in range(60)])).all() and store.labels.dtype == np.float32
    assert list(store.names) == [f"ünit {i}.png" for i in range(60)] and store.names[-1:] == ["ünit 59.png"]
    assert store.sizes.tolist() == [[i + 1, 7] for i in range(60)]
    assert store.identities is None and store.rejected == [] and len(store) == 60
    assert not (store.directory / "raw.npy").exists()
    assert store.directory.name == f"noise-more-8-{store.key[:12]}"


def test_splits_cover_everything_and_follow_identities():
    people = [f"p{i % 20}" if i < 50 else None for i in range(60)]
    store = build(Noise(identities=people), 8)
    splits = [store.split(name) for name in ("train", "val", "test")]
    assert sorted(np.concatenate(splits)) == list(range(60)) and splits[0].dtype == np.int64
    assert list(store.identities) == [who or "" for who in people]
    assert (store.splits[:20] == store.splits[20:40]).all()


def test_a_second_start_opens_without_building(tmp_path):
    log = tmp_path / "log"
    first = build(Noise(log=log), 8)
    again = build(Noise(log=log), 8)
    assert log.read_text() == "built\n" and again.directory == first.directory and again.key == first.key


def test_every_choice_has_a_store_of_its_own():
    datasets = [Noise(), Noise(count=59), Noise(split=(0.6, 0.2, 0.2)), Noise(max_rejected=0.5), Noise(channels=1)]
    stores = [build(dataset, 8) for dataset in datasets] + [build(Noise(), 4)]
    assert len({store.directory for store in stores}) == 6


def test_a_pickled_store_is_a_path_and_maps_again():
    store = build(Noise(), 8)
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert (pickle.loads(data).read(np.arange(60)) == store.read(np.arange(60))).all()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("images.npy", cut),
        ("labels.npy", flip),
        ("names.npy", flip),
        ("splits.npy", Path.unlink),
        ("store.json", cut),
        ("SHA256SUMS", cut),
        ("SHA256SUMS", lambda path: path.write_text("")),
    ],
)
def test_a_damaged_store_is_named_and_made_again(file, harm, tmp_path, caplog):
    log = tmp_path / "log"
    store = build(Noise(log=log), 8)
    harm(store.directory / file)
    with caplog.at_level(logging.WARNING):
        again = build(Noise(log=log), 8)
    assert log.read_text() == "built\nbuilt\n"
    assert "damaged" in caplog.text and str(store.directory) in caplog.text
    if file != "store.json" and file != "SHA256SUMS":
        assert file in caplog.text
    assert (again.read(np.arange(60)) == np.stack([pixels(i, 3, 8) for i in range(60)])).all()


def build_noise(log: Path, root: str) -> None:
    import os

    os.environ["LIGHTNING_AVATARS_CACHE"] = root
    build(Noise(count=3000, log=log), 32)


def test_two_processes_build_once(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build_noise, args=(log, str(tmp_path / "cache"))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "built\n"


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "data").glob("*") if path.suffix != ".lock"] if cache.is_dir() else []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_named_and_nothing_is_left(code, cache, monkeypatch):
    def append(self, rows):
        raise OSError(code, "No space left on device")

    monkeypatch.setattr(writer.ArrayStream, "append", append)
    with pytest.raises(CacheError, match=r"No space left on device.*LIGHTNING_AVATARS_CACHE") as raised:
        build(Noise(), 8)
    assert str(cache / "data") in str(raised.value)
    assert leftovers(cache) == []


def test_a_cache_that_is_no_folder_is_named(cache):
    cache.write_text("a file")
    with pytest.raises(CacheError, match="LIGHTNING_AVATARS_CACHE") as raised:
        build(Noise(), 8)
    assert str(cache) in str(raised.value)


def test_an_interrupted_build_leaves_nothing_and_old_remains_are_swept(cache, monkeypatch, tmp_path):
    class Interrupted(Noise):
        def pictures(self, resolution):
            yield from [*super().pictures(resolution)][:5]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        build(Interrupted(), 8)
    assert leftovers(cache) == []
    assert len(build(Noise(), 8)) == 60, raised  # the lock is free while the error is still held
    name = build(Noise(count=10), 8).directory.name
    (cache / "data" / name).rename(cache / "data" / f"{name}.unfinished")  # as a killed build leaves it
    assert len(build(Noise(count=10), 8)) == 10
    assert name in leftovers(cache) and not any(left.endswith(".unfinished") for left in leftovers(cache))


def test_rejects_are_listed_up_to_the_limit(caplog, cache):
    with caplog.at_level(logging.WARNING):
        store = build(Noise(bad=(3, 7), max_rejected=0.05), 8)
    assert store.rejected == [("bad3.png", "cut off"), ("bad7.png", "cut off")] and len(store) == 58
    assert "bad3.png: cut off" in caplog.text
    assert "ünit 3.png" not in list(store.names) and store.labels[3, 0] == 4
    with pytest.raises(ValueError, match=r"2 of 60 pictures.*3\.3%.*max_rejected(.|\n)*bad3\.png: cut off"):
        build(Noise(bad=(3, 7)), 8)
    with pytest.raises(ValueError, match="no readable pictures"):
        build(Noise(bad=range(60), max_rejected=1), 8)
    assert len(leftovers(cache)) == 1


def test_an_empty_split_says_what_to_do():
    store = build(Noise(split=(1, 0, 0)), 8)
    with pytest.raises(ValueError, match=r"test split of noise.* is empty \(60 train, 0 val, 0 test\); add pictures"):
        store.split("test")


def test_no_published_split_and_bad_shares_are_refused():
    with pytest.raises(ValueError, match=r"no published split.*three shares"):
        build(Noise(split="standard"), 8)
    with pytest.raises(ValueError, match="sum to 1"):
        build(Noise(split=(0.7, 0.7, 0.7)), 8)


def test_a_dataset_that_breaks_its_promise_is_named():
    class Wrong(Noise):
        label_names = ("a", "b", "c")

    with pytest.raises(ValueError, match=r"ünit 0\.png: expected 3 labels"):
        build(Wrong(), 8)


def anonymous_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_everything_takes_no_memory():
    store = build(Noise(count=6000), 64)  # 70 MiB of pixels
    index = np.random.default_rng(0).permutation(len(store))
    store.read(index[:64])
    before = anonymous_memory()
    for start in range(0, len(index), 64):
        store.read(index[start : start + 64])
    assert anonymous_memory() - before < 4096  # KiB


def test_the_tables_are_what_the_note_says():
    store = build(Noise(), 8)
    contents = json.loads((store.directory / "store.json").read_text())
    assert contents["dataset"] == "noise & more" and contents["fingerprint"] == {"count": 60}
    assert contents["sizes"]["images.npy"] == 128 + 60 * 3 * 8 * 8
    assert np.load(store.directory / "images.npy", allow_pickle=False).shape == (60, 3, 8, 8)


def test_a_process_that_imports_an_unguarded_script_does_not_wait_for_its_parents_lock(monkeypatch, tmp_path):
    log = tmp_path / "log"
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="where a script is only imported: put what it runs below `if __name__"):
        build(Noise(log=log), 8)
    assert not log.exists()
