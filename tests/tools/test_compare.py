"""Two files of scores side by side, and refusals that name the field."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lightning_avatars.cli import main
from lightning_avatars.evaluation.scores import write_results

PASSPORT = {
    "images": 500,
    "weights": "average",
    "truncation_psi": 1.0,
    "sampling": {"temperature": 1.0},
    "labels": None,
    "rounding": "rounded",
    "reference": {"name": "avatars", "split": "train", "images": 900, "key": "aaa"},
    "extractors": {
        "net": {"sha256": "1", "resize": "to 64 x 64", "precision": "float32", "pairs": {"images": 500}},
    },
}


def score(value: float | None, width: float | None = None, extractor: str | None = "net") -> dict:
    interval = None if width is None else [value - width, value + width]
    return {"value": value, "interval": interval, "floor": 1.25, "extractor": extractor}


def entry(scores: dict[str, dict], stage: str = "val", name: str = "samples", **passport: object) -> dict:
    return {
        "stage": stage,
        "images_seen": 100_032,
        "training": None,
        "set": name,
        "scores": scores,
        "accuracy": {},
        "seconds": 1.0,
        "passport": copy.deepcopy(PASSPORT) | passport,
    }


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def write(name: str, *entries: dict) -> None:
    write_results(Path(name), list(entries))


def rows(capsys, *args: str) -> dict[str, list[str]]:
    """Compare a.json and b.json; cells of the tables by their first column."""
    main(["compare", "a.json", "b.json", *args])
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {first: rest for first, *rest in cells}


def refused(message: str, capsys, *args: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", "a.json", "b.json", *args])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and "Traceback" not in said


def test_the_better_score_is_named_where_intervals_leave_no_doubt(capsys):
    write("a.json", entry({"fd_net_500": score(10.0, 1), "precision_net_500": score(0.5, 0.01)}))
    write("b.json", entry({"fd_net_500": score(20.0, 1), "precision_net_500": score(0.75, 0.01)}))
    found = rows(capsys)
    assert found["fd_net_500"] == ["10 [9, 11]", "20 [19, 21]", "first", "1.25"]
    assert found["precision_net_500"][2] == "second"
    assert found["images seen"][:2] == ["100,032", "100,032"] and found["weights"][:2] == ["average", "average"]


@pytest.mark.parametrize(("gap", "better"), [(4.9, "~"), (5.1, "first")])
def test_half_widths_add_as_the_root_of_squares(gap, better, capsys):
    write("a.json", entry({"fd_net_500": score(10.0, 3)}))
    write("b.json", entry({"fd_net_500": score(10.0 + gap, 4)}))  # 3, 4, 5
    assert rows(capsys)["fd_net_500"][2] == better


def test_equal_files_are_level(capsys):
    for name in ("a.json", "b.json"):
        write(name, entry({"fd_net_500": score(10.0, 1), "mse_500": score(0.1, None, None)}))
    assert [found[2] for name, found in rows(capsys).items() if name.endswith("500")] == ["~", "~"]


def test_a_score_that_is_no_number_loses_against_one(capsys):
    write("a.json", entry({"fd_net_500": score(None), "kd_net_500": score(None)}))
    write("b.json", entry({"fd_net_500": score(20.0, 1), "kd_net_500": score(None)}))
    found = rows(capsys)
    assert found["fd_net_500"][:3] == ["nan", "20 [19, 21]", "second"]
    assert found["kd_net_500"][:3] == ["nan", "nan", ""]


def test_the_latest_scores_are_compared_or_those_of_one_stage(capsys):
    write("a.json", entry({"fd_net_500": score(30.0)}), entry({"fd_net_500": score(10.0)}, "test"))
    write("b.json", entry({"fd_net_500": score(20.0)}), entry({"fd_net_500": score(15.0)}, "test"))
    assert rows(capsys)["fd_net_500"][:3] == ["10", "15", "first"]
    assert rows(capsys, "--stage", "val")["fd_net_500"][:3] == ["30", "20", "second"]
    refused("a.json has no scores of the stage 'evaluate'", capsys, "--stage", "evaluate")


def test_weights_may_differ_and_are_shown(capsys):
    write("a.json", entry({"fd_net_500": score(10.0)}, weights="average"))
    write("b.json", entry({"fd_net_500": score(20.0)}, weights="last", versions={"torch": "9"}))
    assert rows(capsys)["weights"][:2] == ["average", "last"]


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("truncation_psi", {"truncation_psi": 0.7}),
        ("sampling.temperature", {"sampling": {"temperature": 0.5}}),
        ("rounding", {"rounding": "cut off"}),
        ("images", {"images": 499}),
        ("reference.key", {"reference": PASSPORT["reference"] | {"key": "bbb", "name": "celeba"}}),
        ("reference.split", {"reference": PASSPORT["reference"] | {"split": "test"}}),
        *[
            (f"extractors.net.{key}", {"extractors": {"net": PASSPORT["extractors"]["net"] | {key: "other"}}})
            for key in ("sha256", "resize", "precision", "pairs")
        ],
    ],
)
def test_what_can_not_be_compared_is_refused_by_the_field(field, changed, capsys):
    write("a.json", entry({"fd_net_500": score(10.0)}))
    write("b.json", entry({"fd_net_500": score(10.0)}, **changed))
    refused(f"fd_net_500 of a.json and of b.json can't be compared: in their passports {field} is", capsys)


def test_other_references_are_also_told_by_name(capsys):
    write("a.json", entry({"fd_net_500": score(10.0)}))
    write("b.json", entry({"fd_net_500": score(10.0)}, reference={"name": "celeba", "split": "train", "key": "bbb"}))
    refused("reference.key is 'aaa' and 'bbb' (they were compared with avatars and celeba)", capsys)


def test_files_without_common_scores_are_refused_with_what_they_have(capsys):
    write("a.json", entry({"fd_net_500": score(10.0)}))
    write("b.json", entry({"fd_net_60": score(10.0), "kd_net_60": score(1.0)}), entry({}, name="pairs"))
    refused("samples: fd_net_500 against samples: fd_net_60, kd_net_60; pairs: none", capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file at b.json"),
        ("hello", "b.json holds no results"),
        (json.dumps([{"fid": 3}]), "b.json holds no results"),
        (json.dumps({"leaderboard": "avatars32", "scores": {}}), "b.json holds no results"),
        (json.dumps({"schema": 1, "results": []}), "b.json has schema 1, this version reads 2"),
        (json.dumps({"schema": 2, "results": []}), "b.json has no scores"),
    ],
)
def test_other_files_are_refused(content, message, capsys):
    write("a.json", entry({"fd_net_500": score(10.0)}))
    if content is not None:
        Path("b.json").write_text(content)
    refused(message, capsys)
