import itertools
import os
import pickle
from collections.abc import Iterator
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_avatars.data.base import FaceData, FaceDataset, Picture


class Numbers(FaceDataset):
    """Pictures that each hold their own number."""

    def __init__(self, count: int = 40, split=(0.7, 0.15, 0.15)) -> None:
        super().__init__(split)
        self.count = count

    name = "numbers"
    label_names = ("number",)

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(self.count):
            image = np.full((3, resolution, resolution), i, np.uint8)
            image[..., 0] = 255 - i
            yield Picture(str(i), image, np.array([i], np.float32), blake2b(image.tobytes(), digest_size=16).digest())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


def fake_trainer(rank=0, world_size=1, images_seen=0):
    module = SimpleNamespace(images_seen=images_seen)
    return SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)


@pytest.mark.parametrize(
    ("cuda", "compressed", "given", "workers"),
    [
        (False, False, None, 0),
        (False, True, None, 2),
        (True, False, None, 2),
        (False, True, 0, 0),
        (True, False, 0, 0),
        (False, False, 3, 3),
    ],
)
def test_processes_read_ahead_where_reading_takes_time(cuda, compressed, given, workers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    data = FaceData(Numbers(), resolution=8, batch_size=4, num_workers=given)
    data.prepare_data()
    data.setup("fit")
    monkeypatch.setattr(data.store, "compressed", compressed)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert loader.num_workers == workers
        assert loader.pin_memory == cuda and loader.persistent_workers == (workers > 0)


def batches_of(data: FaceData, count: int, **trainer):
    data.trainer = fake_trainer(**trainer)
    data.prepare_data()
    data.setup("fit")
    return list(itertools.islice(data.train_dataloader(), count))


def test_batches_hold_pictures_labels_and_places():
    batches = batches_of(FaceData(Numbers(), resolution=8, batch_size=5, num_workers=0), 3)
    for batch in batches:
        assert batch["image"].shape == (5, 3, 8, 8) and batch["image"].dtype == torch.uint8
        assert batch["labels"].shape == (5, 1) and batch["labels"].dtype == torch.float32
        assert (batch["image"][:, 0, 0, 1] == batch["labels"][:, 0]).all()
        assert (batch["index"] == batch["labels"][:, 0]).all()


def test_workers_resumption_and_ranks_give_the_same_batches():
    def data(workers):
        return FaceData(Numbers(), resolution=8, batch_size=6, horizontal_flip=True, num_workers=workers, seed=5)

    plain = batches_of(data(0), 6)
    workers = batches_of(data(2), 6)
    later = batches_of(data(0), 4, images_seen=12)
    halves = [batches_of(data(0), 6, rank=rank, world_size=2) for rank in range(2)]
    for key in ("image", "labels", "index"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(plain, workers, strict=True))
        assert all(torch.equal(a[key], b[key]) for a, b in zip(plain[2:], later, strict=True))
        joined = [torch.cat([a[key], b[key]]) for a, b in zip(*halves, strict=True)]
        assert all(torch.equal(a[key], b) for a, b in zip(plain, joined, strict=True))


def test_flip_mirrors_about_half_and_only_while_training():
    data = FaceData(Numbers(), resolution=8, batch_size=100, horizontal_flip=True, num_workers=0)
    images = torch.cat([batch["image"] for batch in batches_of(data, 5)])
    number, mirrored = images[:, 0, 0, 1].int(), images[:, 0, 0, 0] == images[:, 0, 0, 1]
    assert 0.4 < mirrored.float().mean() < 0.6
    assert (images[mirrored, 0, 0, -1] == 255 - number[mirrored]).all()
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        for batch in loader:
            assert (batch["image"][:, 0, 0, 0] == 255 - batch["labels"][:, 0]).all()


def test_evaluation_shows_each_split_once():
    data = FaceData(Numbers(), resolution=8, batch_size=4, num_workers=0)
    data.prepare_data()
    data.setup("test")
    shown = {name: [i for batch in loader for i in batch["index"].tolist()] for name, loader in (
        ("val", data.val_dataloader()), ("test", data.test_dataloader()))}  # fmt: skip
    assert shown["val"] == data.store.split("val").tolist() and shown["test"] == data.store.split("test").tolist()
    assert not set(shown["val"]) & set(shown["test"])


def test_uneven_batches_and_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="multiple of the 4 processes"):
        batches_of(FaceData(Numbers(), resolution=8, batch_size=6), 1, world_size=4)
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        FaceData(Numbers(), resolution=0)


def test_dataset_properties_are_passed_on_and_batches_can_be_pickled():
    data = FaceData(Numbers(), resolution=8, num_workers=0)
    assert data.channels == 3 and data.label_names == ("number",)
    batch = batches_of(data, 1)[0]
    again = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert torch.equal(torch.from_numpy(again.store.read(batch["index"].numpy())), batch["image"])


def test_processes_that_read_ahead_are_not_in_the_group_that_a_signal_to_the_training_reaches():
    data = FaceData(Numbers(), resolution=8, batch_size=4, num_workers=1)
    data.prepare_data()
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    (worker,) = batches._workers
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
