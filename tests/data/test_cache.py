"""Where the cache is, and what is said when it cannot be written."""

import errno
from pathlib import Path

import pytest

from lightning_avatars.data.cache import CacheError, cache_root, file_hash, writing


@pytest.mark.parametrize(
    ("value", "folder"),
    [(None, "~/.cache/lightning_avatars"), ("", "~/.cache/lightning_avatars"), ("~/faces", "~/faces"), ("/c", "/c")],
)
def test_the_environment_names_the_folder(value, folder, monkeypatch):
    if value is None:
        monkeypatch.delenv("LIGHTNING_AVATARS_CACHE")
    else:
        monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root() == Path(folder.replace("~", "/home/someone"))


def test_what_the_disk_says_comes_with_what_to_do(tmp_path):
    with (
        pytest.raises(CacheError, match=r"No space left.*Make room there.*LIGHTNING_AVATARS_CACHE") as raised,
        writing(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(tmp_path) in str(raised.value) and isinstance(raised.value.__cause__, OSError)


def test_other_errors_pass(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError


def test_a_files_hash_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
