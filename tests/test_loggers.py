"""Whether there is a key, and what goes to the dashboard; without any network."""

from __future__ import annotations

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_avatars.loggers import Dashboard, default_loggers, has_key


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
