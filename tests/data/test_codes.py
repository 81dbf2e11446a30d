"""Codes are kept for just what they were computed from, whole and undamaged."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from lightning_avatars.data.cache import CacheError
from lightning_avatars.data.codes import BLOCK, cached_codes
from lightning_avatars.data.writer import ArrayStream

COUNT = 2 * BLOCK + 5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    return tmp_path / "codes"


class Describe:
    """Gives picture i the codes 3 i, 3 i + 1 and 3 i + 2, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, where):
        self.asked += 1
        return torch.arange(3 * where.start, 3 * where.stop).view(-1, 3)

    def kept(self, facts="a", words=1000, writes=True):
        return cached_codes({"of": facts}, COUNT, (3,), words, self, torch.device("cpu"), writes)


def test_codes_are_mapped_in_the_order_of_the_pictures_and_computed_once(cache):
    describe = Describe()
    codes = describe.kept()
    assert codes.dtype == np.uint16 and isinstance(codes.base, np.memmap) and not codes.flags.writeable
    np.testing.assert_array_equal(codes, np.arange(3 * COUNT).reshape(-1, 3))
    np.testing.assert_array_equal(describe.kept(), codes)
    assert describe.asked == 3 and len(list(cache.glob("*"))) == 2
    assert Describe().kept("b").shape == codes.shape and len(list(cache.glob("*"))) == 4
    assert describe.kept(words=2**16 + 1).dtype == np.int32


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_damaged_files_are_made_anew(cache, suffix, harm):
    Describe().kept()
    (path,) = cache.glob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content if harm == "flipped" else content[:-9])
    if harm == "gone":
        path.unlink()
    describe = Describe()
    np.testing.assert_array_equal(describe.kept(), np.arange(3 * COUNT).reshape(-1, 3))
    assert describe.asked == 3


def test_what_fails_half_way_leaves_nothing(cache):
    def describe(where):
        if where.start:
            raise RuntimeError("no")
        return torch.zeros(BLOCK, 3)

    with pytest.raises(RuntimeError, match="no"):
        cached_codes({}, COUNT, (3,), 10, describe, torch.device("cpu"))
    assert not list(cache.glob("*"))


def test_a_disk_that_is_full_is_an_error_in_words_and_leaves_nothing(cache, monkeypatch):
    def full(stream, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrayStream, "append", full)  # where a mapped file would end the process with SIGBUS
    with pytest.raises(CacheError, match=r"No space left on device\. Make room there"):
        Describe().kept()
    assert not list(cache.glob("*"))


def test_a_folder_that_cannot_be_written_is_named(cache):
    cache.write_text("a file")
    with pytest.raises(CacheError, match=f"cannot write the cache in {cache}"):
        Describe().kept()
