"""Pictures that a person gives, read in order, and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_avatars.data.decode import Preparation
from lightning_avatars.images import to_picture
from lightning_avatars.reading import Reader, alike, from_path, from_stream, read, readable


@pytest.fixture(autouse=True)
def given(tmp_path, monkeypatch):
    """Write pictures of one size, one in a subfolder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d", "sub/a"):
        path = Path("given", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        to_picture(torch.zeros(3, 8, 8, dtype=torch.uint8)).save(path)


def test_no_more_pictures_are_read_than_are_needed_soon():
    asked = iter(from_path(Path("given")).__getitem__(i % 5) for i in range(10_000))
    taken = 0

    def counted():
        nonlocal taken
        for item in asked:
            taken += 1
            yield item

    reader = Reader({"image": Preparation(0)}, None, None, 0)
    pieces = alike(readable(read(reader, counted(), False), []), 16)
    assert [len(next(pieces)) for _ in range(2)] == [16, 16]
    assert taken < 200
    lines = from_stream(iter(["given/a.png"] * 3))
    streamed = alike(readable(read(reader, lines, True), []), 1)
    assert [len(next(streamed)), next(streamed)[0].item.file] == [1, "a_2"]


def test_results_of_a_stream_never_share_a_name():
    """Someone has called a file as the second of another name would be called."""
    names = [item.file for item in from_stream(f"{name}.png" for name in ["a_2", "a", "a", "a", "sheet", "sheet_2"])]
    assert names == ["a_2", "a", "a_3", "a_4", "sheet_2", "sheet_2_2"]


def test_a_result_called_sheet_takes_no_other_ones_name():
    for name in ("sheet", "sheet_1"):
        Path(f"given/{name}.png").write_bytes(Path("given/a.png").read_bytes())
    files = [item.file for item in from_path(Path("given"))]
    assert "sheet" not in files and len(set(files)) == len(files) == 7
