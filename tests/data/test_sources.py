import json
import os
import zipfile

import pytest
import torch

from lightning_avatars.data import sources
from lightning_avatars.data.sources import find
from lightning_avatars.images import save_sheet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files():
    return {"b.png": b"2", "a/c.JPG": b"1", "a/d/e.webp": b"3", "notes.txt": b"", ".hidden.png": b"", "table.csv": b""}


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path, files, top=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


NAMES = ["a/c.JPG", "a/d/e.webp", "b.png"]


def test_a_folder_lists_its_pictures_with_subfolders(tmp_path, files):
    source = find(write(tmp_path / "faces", {**files, ".cache/f.png": b""}))
    assert source.names() == NAMES and [source.read(name) for name in NAMES] == [b"1", b"3", b"2"]


@pytest.mark.parametrize("top", ["", "faces/"])
def test_a_zip_lists_the_same(tmp_path, files, top):
    source = find(pack(tmp_path / "faces.zip", {**files, "__MACOSX/a.png": b""} if not top else files, top))
    assert source.names() == NAMES and [source.read(name) for name in NAMES] == [b"1", b"3", b"2"]


def test_sheets_that_tools_write_are_no_pictures_and_pictures_of_their_name_are(tmp_path, files):
    save_sheet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2, tmp_path / "drawn.png")
    sheet = (tmp_path / "drawn.png").read_bytes()
    files |= {"sheet.png": sheet, "a/sheet.png": b"4", "a/other_sheet.png": sheet}
    expected = sorted([*NAMES, "a/sheet.png", "a/other_sheet.png"])
    assert find(write(tmp_path / "faces", files)).names() == expected
    assert find(pack(tmp_path / "faces.zip", files)).names() == expected


def test_a_top_folder_is_only_left_out_where_all_is_in_it(tmp_path):
    names = {"faces/a.png": b"1", "faces/faces/a.png": b"2", "b.png": b"3"}
    source = find(pack(tmp_path / "faces.zip", names))
    assert {name: source.read(name) for name in source.names()} == names
    del names["b.png"]
    source = find(pack(tmp_path / "faces.zip", names))
    assert {name: source.read(name) for name in source.names()} == {"a.png": b"1", "faces/a.png": b"2"}


def test_zip_members_never_reach_the_disk(tmp_path):
    path = pack(tmp_path / "evil.zip", {"../../evil.png": b"1", "/tmp/evil2.png": b"2"})
    before = sorted(tmp_path.rglob("*"))
    source = find(path)
    assert [source.read(name) for name in source.names()] == [b"1", b"2"]
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_name_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder or zip at .*nowhere"):
        find(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ValueError, match=r"text\.zip is neither a folder nor a readable zip"):
        find(tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*empty; looked for .bmp"):
        find(tmp_path / "empty").names()
    with pytest.raises(ValueError, match=r"no pictures in .*empty\.zip"):
        find(pack(tmp_path / "empty.zip", {"a.txt": b""})).fingerprint()


def test_a_file_larger_than_any_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_FILE", 1000)
    for path in (write(tmp_path / "x", {"a.png": bytes(2000)}), pack(tmp_path / "x.zip", {"a.png": bytes(2000)})):
        with pytest.raises(ValueError, match="2,000 bytes"):
            find(path).read("a.png")


def counted(monkeypatch):
    read = []
    monkeypatch.setattr(sources, "file_hash", lambda path, hash=sources.file_hash: read.append(path.name) or hash(path))
    return read


def test_contents_are_hashed_once(tmp_path, files, monkeypatch):
    read, folder = counted(monkeypatch), write(tmp_path / "faces", files)
    first = find(folder).fingerprint()
    assert sorted(read) == ["b.png", "c.JPG", "e.webp"]
    assert find(folder).fingerprint() == first and len(read) == 3
    os.utime(folder / "b.png", (1, 1))
    assert find(folder).fingerprint() == first and read[3:] == ["b.png"]


def test_every_change_gives_another_fingerprint(tmp_path, files, monkeypatch):
    folder = write(tmp_path / "faces", files)
    seen = [find(folder).fingerprint()]
    write(folder, {"b.png": b"other"})
    seen.append(find(folder).fingerprint())
    write(folder, {"new.png": b"9"})
    seen.append(find(folder).fingerprint())
    (folder / "new.png").rename(folder / "renamed.png")
    seen.append(find(folder).fingerprint())
    (folder / "renamed.png").unlink()
    (folder / "notes.txt").write_text("no picture")
    assert len(set(seen)) == 4 and find(folder).fingerprint() == seen[1]


def test_a_broken_index_is_made_again(tmp_path, files, cache):
    folder = write(tmp_path / "faces", files)
    first = find(folder).fingerprint()
    index = next((cache / "sources").glob("*.json"))
    for text in ("", "[]", '{"b.png": 3}', '{"b.png": [1]}'):
        index.write_text(text)
        assert find(folder).fingerprint() == first and len(json.loads(index.read_text())) == 3
    assert [path.name for path in (cache / "sources").iterdir()] == [index.name]


def test_a_zip_is_told_by_its_directory_and_opened_anew_when_it_changes(tmp_path, files, monkeypatch):
    read = counted(monkeypatch)
    path = pack(tmp_path / "faces.zip", files)
    first = find(path).fingerprint()
    assert find(path).fingerprint() == first and read == []
    pack(path, {**files, "b.png": b"changed"})
    os.utime(path, (1, 1))
    assert find(path).fingerprint() != first and find(path).read("b.png") == b"changed"


@pytest.mark.parametrize("top", ["", "faces/"])
def test_a_folder_in_a_zip_is_a_place_of_its_own(tmp_path, files, top):
    path = pack(tmp_path / "faces.zip", {**files, "abc/x.png": b"4"}, top)
    source = find(path / "a")
    assert source.names() == ["c.JPG", "d/e.webp"] and source.read("d/e.webp") == b"3"
    assert find(path / "a/d").names() == ["e.webp"] and find(path / "abc").names() == ["x.png"]
    assert len({find(place).fingerprint() for place in (path, path / "a", path / "abc")}) == 3
    with pytest.raises(ValueError, match=r"no pictures in .*faces\.zip/none"):
        find(path / "none").names()
