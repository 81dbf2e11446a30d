import numpy as np
import pytest

from lightning_avatars.data import tables
from lightning_avatars.data.tables import read_header, read_table

CSV = "file,age,smiling,hair,glasses\na.png,30,1,red,yes\nb.png,41.5,-1,black,no\nc/d.png,7,-1,red,no\n"
TEXT = "2\nSmiling Young\na.jpg -1  1\nb.jpg  1 -1\n"


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write


def test_numbers_words_and_signs(table):
    for encoding in ("utf-8", "utf-8-sig"):
        read = read_table(table(CSV, encoding))
        assert read.label_names == ["age", "smiling", "hair=black", "hair=red", "glasses=no", "glasses=yes"]
        assert read.rows == {"a.png": 0, "b.png": 1, "c/d.png": 2} and read.values.dtype == np.float32
        assert read.values.tolist() == [[30, 1, 0, 1, 0, 1], [41.5, 0, 1, 0, 1, 0], [7, 0, 0, 1, 1, 0]]


def test_columns_are_chosen_in_the_given_order(table):
    read = read_table(table(CSV), ["glasses", "age"])
    assert read.label_names == ["glasses=no", "glasses=yes", "age"] and read.values[1].tolist() == [1, 0, 41.5]
    assert read_table(table(CSV), []).values.shape == (3, 0)


def test_zeros_and_ones_stay(table):
    assert read_table(table("f,x,y\na,0,1\nb,1,1\n")).values.tolist() == [[0, 1], [1, 1]]


def test_celebas_format(table):
    path = table(TEXT)
    read = read_table(path)
    assert read.label_names == ["Smiling", "Young"] == read_header(path)
    assert read.rows == {"a.jpg": 0, "b.jpg": 1} and read.values.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f,age\na.png,3\na.png,4\n", r"more than one row for 'a\.png'"),
        ("f,age\na.png,3,4\n", r"row of 'a\.png' has 3 cells, the header 2"),
        ("f,age\na.png,\n", r"row of 'a\.png' has no 'age'"),
        ("f,age\na.png,nan\n", r"'age' of 'a\.png' is not a finite number"),
        ("f;age\na.png;3\n", "needs a header"),
        ("f,age,age\na.png,3,4\n", "needs a header"),
        ("", "needs a header"),
        ("3\nSmiling\na.jpg 1\n", "announces 3 rows and has 1; it may be cut off"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(table, text, message):
    with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
        read_table(table(text))


def test_missing_columns_and_files(table, tmp_path):
    with pytest.raises(ValueError, match=r"table\.csv has no column 'smilng'; did you mean smiling\?"):
        read_table(table(CSV), ["smilng"])
    for read in (read_table, read_header):
        with pytest.raises(FileNotFoundError, match=r"no attribute table at .*nowhere\.csv"):
            read(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes(b"f,x\n\xe9.png,1\n")
    with pytest.raises(ValueError, match=r"latin\.csv is no attribute table.*UTF-8"):
        read_table(tmp_path / "latin.csv")


def test_captions_are_no_labels(table, monkeypatch):
    monkeypatch.setattr(tables, "MOST_VALUES", 2)
    with pytest.raises(ValueError, match=r"'x' has 3 different words.*choose other columns"):
        read_table(table("f,x\na,u\nb,v\nc,w\n"))
