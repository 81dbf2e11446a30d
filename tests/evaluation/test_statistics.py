"""Numbers that are computed once for each content, and again where they can't be trusted."""

from __future__ import annotations

import threading

import pytest
import torch
from safetensors import safe_open

from lightning_avatars.evaluation.statistics import cached

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    return tmp_path / "statistics"


class Work:
    """Counts how often it is done."""

    def __init__(self, value: float = 1.0) -> None:
        self.value, self.done = value, 0

    def __call__(self):
        self.done += 1
        return {"mean": torch.full((3,), self.value, dtype=torch.float64), "features": torch.arange(6.0).view(2, 3)}


def files(folder):
    return sorted(folder.glob("*.safetensors"))


def test_the_second_time_is_read_and_equal_in_every_bit(folder):
    work = Work(1 / 3)
    first, second = (cached({"what": "a", "number": 1}, CPU, work) for _ in range(2))
    assert work.done == 1 and first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and tensor.dtype == second[name].dtype


def test_the_order_of_facts_does_not_matter_and_each_of_them_does(folder):
    work = Work()
    cached({"what": "a", "number": 1}, CPU, work)
    cached({"number": 1, "what": "a"}, CPU, work)
    assert work.done == 1 and len(files(folder)) == 1
    for facts in ({"what": "b", "number": 1}, {"what": "a", "number": 2}, {"what": "a"}):
        cached(facts, CPU, work)
    assert work.done == 4 and len(files(folder)) == 4


@pytest.mark.parametrize("keep", [0, 4, 60, 0.5, -1])
def test_a_truncated_file_is_computed_again(folder, keep):
    cached({"what": "a"}, CPU, Work(1.0))
    (path,) = files(folder)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    again = Work(2.0)
    assert cached({"what": "a"}, CPU, again)["mean"].tolist() == [2.0] * 3 and again.done == 1
    assert cached({"what": "a"}, CPU, again)["mean"].tolist() == [2.0] * 3 and again.done == 1


def test_a_file_of_something_else_is_computed_again(folder):
    cached({"what": "a"}, CPU, Work(1.0))
    (path,) = files(folder)
    for content in (b"not at all a file of tensors", path.read_bytes().replace(b'what\\":', b'that\\":')):
        path.write_bytes(content)
        again = Work(3.0)
        assert cached({"what": "a"}, CPU, again)["mean"].tolist() == [3.0] * 3 and again.done == 1


def test_the_file_says_what_it_is_of_and_nothing_is_pickled(folder):
    cached({"what": "a", "weights": "0123"}, CPU, Work())
    (path,) = files(folder)
    with safe_open(path, "pt") as file:
        assert '"weights": "0123"' in file.metadata()["facts"] and sorted(file.keys()) == ["features", "mean"]
    assert {file.suffix for file in folder.iterdir()} <= {".safetensors", ".lock"}


def test_two_at_once_compute_once(folder):
    found, started, go = [], threading.Event(), threading.Event()

    def slow():
        started.set()
        assert go.wait(20)
        return {"mean": torch.ones(3)}

    def never():
        raise AssertionError("computed twice")

    first = threading.Thread(target=lambda: found.append(cached({"what": "a"}, CPU, slow)))
    second = threading.Thread(target=lambda: found.append(cached({"what": "a"}, CPU, never)))
    first.start()
    assert started.wait(20)
    second.start()
    go.set()
    first.join(20)
    second.join(20)
    assert [tensors["mean"].tolist() for tensors in found] == [[1.0] * 3] * 2


def test_an_error_leaves_no_file_and_no_lock(folder):
    def fail():
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        cached({"what": "a"}, CPU, fail)
    assert files(folder) == []
    assert cached({"what": "a"}, CPU, Work(4.0))["mean"].tolist() == [4.0] * 3


def test_a_cache_that_can_not_be_written_is_told_and_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "file"))
    work = Work()
    for times in (1, 2):
        with pytest.warns(UserWarning, match=r"can't be kept in .*file/statistics, and is made anew"):
            cached({"what": "a"}, CPU, work)
        assert work.done == times
