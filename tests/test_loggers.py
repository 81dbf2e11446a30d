"""Whether there is a key, and what goes to the dashboard; without any network."""

from __future__ import annotations

import csv
import errno

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_avatars.loggers import Dashboard, Table, default_loggers, has_key, run_id


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def entry(host: str) -> str:
    return f"machine {host}\n  login user\n  password secret\n"


def test_no_key_anywhere():
    assert not has_key()


def test_a_key_in_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_key()
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert not has_key()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (entry("api.wandb.ai"), True),
        (entry("example.org") + entry("wandb.example.org"), True),
        (entry("example.org"), False),
        ("", False),
        ("nonsense in this file\n", False),
    ],
)
def test_a_key_in_the_users_netrc(home, monkeypatch, text, expected):
    (home / ".netrc").write_text(text)
    assert has_key() is expected
    (home / ".netrc").rename(home / "elsewhere")
    assert not has_key()
    monkeypatch.setenv("NETRC", "~/elsewhere")
    assert has_key() is expected


def test_a_folder_called_netrc_is_no_key(home):
    (home / ".netrc").mkdir()
    assert not has_key()


@pytest.mark.parametrize(
    ("environment", "offline"),
    [({}, True), ({"WANDB_API_KEY": "secret"}, False), ({"WANDB_MODE": "disabled"}, False)],
)
def test_the_dashboard_is_offline_without_a_key_or_a_mode(home, monkeypatch, environment, offline):
    monkeypatch.delenv("WANDB_MODE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Dashboard(home / "run", "dcgan")._offline is offline


def test_a_run_is_named_by_its_experiment_and_folder(home):
    dashboard = Dashboard(home / "runs" / "dcgan" / "0003", "dcgan")
    assert dashboard._wandb_init["name"] == "dcgan/0003" and dashboard._wandb_init["group"] == "dcgan"
    assert dashboard._wandb_init["dir"] == str(home / "runs" / "dcgan" / "0003")


class Recorder:
    """What a run of the dashboard's library is asked to do."""

    def __init__(self) -> None:
        self.calls = []

    def define_metric(self, name, step_metric):
        self.calls.append((name, step_metric))

    def log(self, metrics):
        self.calls.append(metrics)


def test_numbers_are_drawn_over_images_seen(home):
    dashboard = Dashboard(home / "run", "dcgan")
    dashboard._experiment = recorder = Recorder()
    dashboard.log_metrics({"loss": 0.5}, 64)
    dashboard.log_metrics({"loss": 0.25}, 128)
    assert recorder.calls == [
        ("*", "images_seen"), {"loss": 0.5, "images_seen": 64}, {"loss": 0.25, "images_seen": 128}
    ]  # fmt: skip


def test_default_loggers_write_into_the_runs_folder(home):
    table, dashboard = default_loggers(home / "run", "dcgan")
    assert isinstance(table, CSVLogger) and isinstance(dashboard, Dashboard)
    table.log_metrics({"loss": 0.5}, 64)
    table.save()
    assert (home / "run" / "logs" / "version_0" / "metrics.csv").read_text().split() == ["loss,step", "0.5,64"]


def test_a_run_keeps_its_name_on_the_dashboard_over_all_starts_once_it_has_logged(home):
    first, other = Dashboard(home / "1", "dcgan"), Dashboard(home / "2", "dcgan")
    assert not (home / "1").exists(), "a start that fails leaves nothing"
    first._experiment = Recorder()
    first.log_metrics({"loss": 0.5}, 64)
    again, anew = Dashboard(home / "1", "dcgan"), Dashboard(home / "1", "dcgan", anew=True)
    assert first._wandb_init["id"] == again._wandb_init["id"] == run_id(home / "1") != other._wandb_init["id"]
    assert anew._wandb_init["id"] != run_id(home / "1") and len(run_id(home / "1")) == 16
    assert [path.name for path in (home / "1").iterdir()] == ["wandb_id"]


def test_a_name_that_was_cut_off_while_it_was_written_is_made_anew(home):
    (home / "wandb_id").write_text("")
    assert len(run_id(home)) == 16


@pytest.mark.parametrize(("key", "resume"), [("secret", "allow"), ("", None)])
def test_a_resumed_run_goes_on_where_there_is_a_server(home, monkeypatch, key, resume):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert Dashboard(home / "run", "dcgan")._wandb_init["resume"] == resume


class Full:
    """A writer on a disk that takes half of a row."""

    def __init__(self, file, columns):
        self.file = file

    def writerows(self, rows):
        self.file.write("7,ha")
        self.file.flush()
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(("before", "column"), [(0, "loss"), (2, "loss"), (2, "a_new_one")])
def test_rows_wait_while_the_disk_is_full_and_nothing_that_was_written_is_lost(home, monkeypatch, before, column):
    table = Table(home, name="logs")
    for step in range(before):
        table.log_metrics({"loss": 0.5}, step)
        table.save()
    path = home / "logs/version_0/metrics.csv"
    written = path.read_text() if before else None
    monkeypatch.setattr(csv, "DictWriter", Full)
    table.log_metrics({column: 0.25}, 7)
    for _ in range(2):
        with pytest.warns(UserWarning, match="THE DISK IS FULL: a table of logs"):
            table.save()
        assert (path.read_text() if path.is_file() else None) == written
    monkeypatch.undo()
    table.log_metrics({column: 0.125}, 8)
    table.save()
    with path.open() as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    first = [{"loss": "0.5", "step": str(step)} for step in range(before)]
    assert rows == [*first, {column: "0.25", "step": "7"}, {column: "0.125", "step": "8"}]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_a_new_column_is_written_beside_the_old_file_and_earlier_rows_are_empty_there(home):
    table = Table(home, name="logs")
    for step, row in enumerate(({"b": 1.0}, {"b": 2.0}, {"a": 3.0}, {"b": 4.0})):
        table.log_metrics(row, step)
        table.save()
        table.save()
    assert (home / "logs/version_0/metrics.csv").read_text().split() == [
        "a,b,step",
        ",1.0,0",
        ",2.0,1",
        "3.0,,2",
        ",4.0,3",
    ]
