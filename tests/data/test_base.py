import itertools
import os
import pickle
from collections.abc import Iterator
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_avatars.data.base import EndlessSampler, FaceData, FaceDataset, OnceSampler, Picture


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


def first(sampler, count):
    return list(itertools.islice(sampler, count))


def fake_trainer(rank=0, world_size=1, images_seen=0):
    module = SimpleNamespace(images_seen=images_seen)
    return SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)


@pytest.mark.parametrize("batch_size", [4, 7, 25])
def test_endless_sampler_starts_anywhere(batch_size):
    index = np.arange(100, 110)
    whole = first(EndlessSampler(index, batch_size, seed=3), 9)
    for skipped in range(1, 9):
        later = first(EndlessSampler(index, batch_size, seed=3, start=skipped * batch_size), 9 - skipped)
        for a, b in zip(whole[skipped:], later, strict=True):
            assert a.index.tolist() == b.index.tolist() and a.position.tolist() == b.position.tolist()


def test_endless_sampler_is_independent_of_the_batch_size():
    index = np.arange(10)
    small = np.concatenate([b.index for b in first(EndlessSampler(index, 3, seed=1), 20)])
    large = np.concatenate([b.index for b in first(EndlessSampler(index, 30, seed=1), 2)])
    assert small.tolist() == large.tolist()


def test_endless_sampler_shows_every_picture_once_a_pass_in_a_new_order():
    batches = first(EndlessSampler(np.arange(100, 110), 4, seed=0), 15)
    shown = np.concatenate([b.index for b in batches]).reshape(6, 10)
    assert np.concatenate([b.position for b in batches]).tolist() == list(range(60))
    assert (np.sort(shown) == np.arange(100, 110)).all()
    assert len({tuple(order) for order in shown.tolist()}) == 6
    other = np.concatenate([b.index for b in first(EndlessSampler(np.arange(100, 110), 4, seed=1), 15)])
    assert shown.ravel().tolist() != other.tolist()


def test_two_ranks_are_one_rank_cut_in_two():
    one = first(EndlessSampler(np.arange(10), 6, seed=2), 8)
    ranks = [first(EndlessSampler(np.arange(10), 6, 2, 0, rank, 2), 8) for rank in range(2)]
    for whole, left, right in zip(one, *ranks, strict=True):
        assert whole.index.tolist() == [*left.index, *right.index]
        assert whole.position.tolist() == [*left.position, *right.position]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_once_sampler_shows_all_without_repeats(world_size):
    index = np.arange(50, 73)
    samplers = [OnceSampler(index, 4, rank, world_size) for rank in range(world_size)]
    batches = [batch for sampler in samplers for batch in sampler]
    assert sorted(np.concatenate([b.index for b in batches])) == index.tolist()
    assert all((index[b.position] == b.index).all() for b in batches)
    assert sum(len(sampler) for sampler in samplers) == 6


@pytest.mark.parametrize(("count", "world_size"), [(3, 3), (5, 3), (7, 4), (4, 3)])
def test_every_process_has_a_batch_where_there_are_few_pictures(count, world_size):
    index = np.arange(50, 50 + count)
    ranks = [list(OnceSampler(index, 64, rank, world_size)) for rank in range(world_size)]
    assert all(ranks), "a process without a batch would wait for the others for ever"
    assert sorted(i for batches in ranks for batch in batches for i in batch.index) == index.tolist()


def test_fewer_pictures_than_processes_are_refused():
    with pytest.raises(ValueError, match="3 pictures are too few for 4 processes: use fewer processes"):
        OnceSampler(np.arange(3), 64, 0, 4)


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
