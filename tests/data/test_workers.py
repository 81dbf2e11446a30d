"""Work in order, a bounded way ahead, and nothing left running."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
from rich.console import Console

from lightning_avatars.data import workers
from lightning_avatars.data.workers import cores, in_order, progress


class Late:
    """A pool that does a piece of work only when its result is asked for."""

    def __init__(self):
        self.futures = []

    def submit(self, work, item):
        future = Future()
        future.result = lambda: work(item)
        self.futures.append(future)
        return future


def test_results_come_in_order():
    assert list(in_order(Late(), lambda x: x * x, range(50))) == [x * x for x in range(50)]
    assert list(in_order(Late(), abs, [])) == []


def test_an_endless_source_is_read_only_a_little_ahead():
    pool = Late()
    found = list(itertools.islice(in_order(pool, abs, itertools.count()), 5))
    assert found == [0, 1, 2, 3, 4]
    assert len(pool.futures) <= 5 + 2 * cores()


def test_what_waits_is_cancelled_when_nobody_asks_any_more():
    pool = Late()
    results = in_order(pool, abs, itertools.count())
    assert next(results) == 0
    results.close()
    assert pool.futures[1:] and all(future.cancelled() for future in pool.futures[1:])


def test_an_error_in_the_work_arrives_and_cancels_the_rest():
    pool = Late()
    with pytest.raises(ZeroDivisionError):
        list(in_order(pool, lambda x: 1 // (3 - x), range(100)))
    assert all(future.cancelled() for future in pool.futures[4:])


def test_a_script_that_is_not_guarded_is_told_to_be(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from lightning_avatars.data.workers import in_order, process_pool\n"
        "with process_pool() as pool:\n"
        "    print(list(in_order(pool, abs, [-1, 2])))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stdout == ""
    told = (
        "RuntimeError: a process that prepares pictures has ended too soon: in a script of your own, put what it runs "
        'below `if __name__ == "__main__":`, for processes that prepare pictures import it; elsewhere, look whether '
        "memory ran out"
    )
    assert told in ended.stderr.splitlines()  # what other processes of the pool say may come later


@pytest.mark.parametrize("watched", [False, True])
def test_a_bar_is_shown_where_a_person_looks_and_changes_nothing(watched, capsys, monkeypatch):
    monkeypatch.setattr(workers, "Console", lambda **options: Console(**options, force_terminal=watched))
    assert list(progress(iter("abc"), "Drawing", 3)) == ["a", "b", "c"]
    shown = capsys.readouterr()
    assert shown.out == "" and ("Drawing" in shown.err) == watched
