"""Weights are found, checked and fetched, or it is said what to do."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from lightning_avatars.data.cache import CacheError
from lightning_avatars.metrics.weights import Weights, content_hash, fetch, locate, read, weights_folder

CONTENT = b"numbers" * 400_000


def published(address: str | None = None, content: bytes = CONTENT) -> Weights:
    return Weights("digits", "digits.pth", hashlib.sha256(content).hexdigest(), address, "counting")


OTHER = Weights("digits-half", "half.pth", hashlib.sha256(b"half").hexdigest(), None, "counting, half of it")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "published.pth").write_bytes(CONTENT)
    return (tmp_path / "published.pth").as_uri()


def test_the_first_file_that_is_there_is_located(folder):
    folder.mkdir(parents=True)
    (folder / "half.pth").write_bytes(b"half")
    assert locate(published(), OTHER) == folder / "half.pth"
    (folder / "digits.pth").write_bytes(CONTENT)
    assert locate(published(), OTHER) == folder / "digits.pth"


def test_missing_weights_are_named_with_all_places_and_what_to_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        locate(published("https://example.org"), OTHER)
    assert f"{folder / 'digits.pth'} or {folder / 'half.pth'} (for counting)" in str(caught.value)
    assert str(caught.value).endswith("put the file there, or run `lightning-avatars weights --fetch digits`")
    with pytest.raises(FileNotFoundError, match=r"nowhere \(for counting\): .* or leave the path out and run"):
        locate(published("https://example.org"), path=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"put the file there$"):
        locate(OTHER)


def test_damaged_weights_are_refused(folder):
    folder.mkdir(parents=True)
    (folder / "digits.pth").write_bytes(CONTENT[:-1])
    found, expected = hashlib.sha256(CONTENT[:-1]).hexdigest(), published().sha256
    with pytest.raises(ValueError, match=rf"not as it was published: its sha256 is {found}, expected {expected}"):
        locate(published())


def test_the_hash_of_the_content_is_the_same_in_any_container_and_precision(tmp_path):
    tensors = {"b": torch.randn(2, 3).half(), "a": torch.randn(4).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(dict(reversed(tensors.items())) | {"steps": torch.tensor(3)}, tmp_path / "a.pth")
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    hashes = {content_hash(x) for x in (tensors, floats, read(tmp_path / "a.safetensors"), read(tmp_path / "a.pth"))}
    assert len(hashes) == 1
    changed = {
        content_hash(tensors | {"a": tensors["a"] + 1}),
        content_hash({"b": tensors["b"].T, "a": tensors["a"]}),
        content_hash({"b": tensors["a"], "a": tensors["b"]}),
        content_hash({"a": tensors["a"]}),
    }
    assert len(changed - hashes) == 4


def test_a_checkpoint_of_more_than_tensors_is_not_unpickled(tmp_path):
    torch.save({"code": Weights}, tmp_path / "a.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        read(tmp_path / "a.pth")


def test_fetched_weights_lie_in_the_cache_folder_and_progress_is_reported(folder, server):
    told = []
    path = fetch(published(server), lambda done, total: told.append((done, total)))
    assert path == folder / "digits.pth" == weights_folder() / "digits.pth"
    assert path.read_bytes() == CONTENT
    assert told == [(2**20, len(CONTENT)), (2 * 2**20, len(CONTENT)), (len(CONTENT), len(CONTENT))]
    assert [file.name for file in folder.iterdir()] == ["digits.pth"]
    assert locate(published(server)) == path


def test_what_is_not_as_published_is_not_kept_and_replaces_nothing(folder, server):
    folder.mkdir(parents=True)
    (folder / "digits.pth").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"published.pth sent has sha256 .*, expected .*: not kept"):
        fetch(published(server, b"other"))
    assert [file.read_bytes() for file in folder.iterdir()] == [b"old"]


def test_an_address_out_of_reach_is_named_with_what_to_do_instead(folder, server):
    with pytest.raises(OSError, match=rf"cannot fetch {server}x: .*put digits.pth into {folder}"):
        fetch(published(server + "x"))
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match=r"digits-half has no address to fetch it from: put half.pth into"):
        fetch(OTHER)


def test_a_cache_that_cannot_be_written_is_said(folder, server):
    folder.parent.write_text("a file where the folder should be")
    with pytest.raises(CacheError, match="LIGHTNING_AVATARS_CACHE"):
        fetch(published(server))
