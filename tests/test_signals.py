"""Signals are noted while a run trains, obeyed between two batches, and given back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from lightning_avatars.callbacks.run import Run, all_end_with
from lightning_avatars.launch import LAUNCHER, status
from lightning_avatars.signals import NOTED, Signals
from tests.conf.faults import checkpoints, equal, training_state
from tests.conf.training import fit, game


class Sender(Callback):
    """Sends this process a signal in the middle of a batch, or of a validation."""

    def __init__(self, number: int, images: int, in_validation: bool = False) -> None:
        self.number, self.images, self.in_validation = number, images, in_validation

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.in_validation and pl_module.images_seen == self.images:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer, pl_module):
        if self.in_validation and pl_module.images_seen == self.images:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in NOTED]
    yield
    assert [signal.getsignal(number) for number in NOTED] == before, "handlers are given back"


@pytest.mark.parametrize("number", NOTED)
def test_a_signal_is_noted_and_handlers_are_given_back(number):
    signals, heard = Signals(), []
    before = signal.signal(number, lambda *_: heard.append("before"))
    signals.install()
    signals.install()
    os.kill(os.getpid(), number)
    assert signals.received == number and not heard
    signals.remove()
    signals.remove()
    os.kill(os.getpid(), number)
    assert heard == ["before"]
    signal.signal(number, before)


def test_other_threads_leave_signals_alone():
    signals = Signals()
    thread = threading.Thread(target=signals.install)
    thread.start()
    thread.join()
    assert signals.before == {}


@pytest.mark.parametrize("number", NOTED)
def test_a_run_that_is_told_to_end_saves_the_batch_and_goes_on_as_if_nothing_had_happened(number, tmp_path):
    run = [Run(images=80, validate_every=0, save_every=0), Sender(number, 32)]
    with pytest.raises(SystemExit) as stop:
        fit(game(), tmp_path / "told", callbacks=run)
    assert stop.value.code == 128 + number
    assert checkpoints(tmp_path / "told") == ["images_000000040.ckpt"]
    told = tmp_path / "told/checkpoints/images_000000040.ckpt"
    fit(game(), tmp_path / "told", ckpt_path=told, callbacks=[Run(images=80, validate_every=0, save_every=0)])
    fit(game(), tmp_path / "whole", callbacks=[Run(images=80, validate_every=0, save_every=0)])
    gone_on, whole = (training_state(tmp_path / f / "checkpoints/images_000000080.ckpt") for f in ("told", "whole"))
    assert equal(gone_on, whole)


class Validations(Callback):
    """Notes when a validation has been made to its end."""

    def __init__(self) -> None:
        self.at = []

    def on_validation_end(self, trainer, pl_module):
        self.at.append(pl_module.images_seen)


def state(folder: Path, images: int) -> dict[str, object]:
    return training_state(folder / f"checkpoints/images_{images:09d}.ckpt")


@pytest.mark.parametrize("sender", [Sender(signal.SIGTERM, 32, in_validation=True), Sender(signal.SIGTERM, 24)])
def test_a_validation_is_left_at_once_and_made_when_the_run_goes_on(tmp_path, sender):
    first, second, third, told = Validations(), Validations(), Validations(), tmp_path / "told"
    further = {"images": 64, "validate_every": 32, "save_every": 0, "keep": 9}
    with pytest.raises(SystemExit) as stop:
        fit(game(), told, callbacks=[first, Run(**further), sender])
    assert stop.value.code == 128 + signal.SIGTERM
    assert first.at == [] and checkpoints(told) == ["images_000000032.ckpt"]
    path = told / "checkpoints/images_000000032.ckpt"
    fit(game(), told, ckpt_path=path, callbacks=[second, Run(**further)])
    fit(game(), tmp_path / "whole", callbacks=[third, Run(**further)])
    assert second.at == third.at == [32, 64]
    assert equal(state(told, 64), state(tmp_path / "whole", 64))


def test_a_run_that_was_told_to_end_in_its_last_validation_makes_it_and_no_more(tmp_path):
    class Finished(Validations):
        def on_validation_epoch_end(self, trainer, pl_module):
            finished.append(trainer.should_stop)

    finished: list[bool] = []
    run, seen = {"images": 32, "validate_every": 0, "save_every": 0}, Finished()
    with pytest.raises(SystemExit):
        fit(game(), tmp_path, callbacks=[Run(**run), Sender(signal.SIGUSR1, 32, in_validation=True)])
    path = tmp_path / "checkpoints/images_000000032.ckpt"
    for _ in range(2):  # it is made by the first of them
        module = game()
        fit(module, tmp_path, ckpt_path=path, callbacks=[seen, Run(**run)])
        assert module.images_seen == 32 and seen.at == [32] and finished == [True]


def test_a_second_signal_in_a_validation_that_is_made_again_costs_nothing_either(tmp_path):
    seen, run = Validations(), {"images": 64, "validate_every": 32, "save_every": 0}
    path = tmp_path / "checkpoints/images_000000032.ckpt"
    for again in (None, path):
        with pytest.raises(SystemExit):
            told = [seen, Run(**run), Sender(signal.SIGTERM, 32, in_validation=True)]
            fit(game(), tmp_path, ckpt_path=again, callbacks=told)
    fit(game(), tmp_path, ckpt_path=path, callbacks=[seen, Run(**run)])
    assert seen.at == [32, 64]


def test_a_signal_before_the_first_batch_ends_the_run_with_its_status(tmp_path):
    class Early(Callback):
        def on_train_start(self, trainer, pl_module):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        fit(game(), tmp_path, callbacks=[Early(), Run(images=32)])
    assert stop.value.code == 128 + signal.SIGTERM and checkpoints(tmp_path) == []


def test_a_process_that_lightning_started_leaves_the_status_to_the_first(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(LAUNCHER, "1")
    assert status(signal.SIGTERM) == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")  # torchrun wants to know of each
    assert status(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("world", "started", "alone"),
    [(1, None, True), (1, 0, True), (2, 1, True), (2, None, False), (2, 0, False), (4, 1, False)],
)
def test_none_leaves_at_once_who_would_leave_others_behind(world, started, alone):
    launcher = None if started is None else SimpleNamespace(procs=[None] * started)
    assert all_end_with(SimpleNamespace(world_size=world, strategy=SimpleNamespace(launcher=launcher))) is alone


def test_a_validation_that_was_due_and_can_not_be_made_does_not_keep_a_batch_from_being_saved(tmp_path):
    run = {"images": 96, "validate_every": 32, "save_every": 0}
    with pytest.raises(SystemExit):
        fit(game(), tmp_path, callbacks=[Run(**run), Sender(signal.SIGTERM, 32, in_validation=True)])
    path = tmp_path / "checkpoints/images_000000032.ckpt"
    with pytest.raises(SystemExit):
        told = [Run(**run), Sender(signal.SIGTERM, 64)]
        fit(game(), tmp_path, ckpt_path=path, limit_val_batches=0, callbacks=told)
    assert checkpoints(tmp_path)[-1] == "images_000000072.ckpt"


def test_lightning_handles_no_signals_while_a_run_trains_and_may_again_when_it_has(tmp_path, monkeypatch):
    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()

    called: list[str] = []
    monkeypatch.setattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor", lambda loop: called.append("broadcast"))
    monkeypatch.setattr(_SignalConnector, "register_signal_handlers", lambda connector: called.append("registered"))
    trainer = fit(game(), tmp_path, callbacks=[Look(), Run(images=16, validate_every=0)])
    assert called == []
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    trainer._signal_connector.register_signal_handlers()
    assert called == ["broadcast", "registered"]


def test_a_run_whose_weights_are_no_numbers_obeys_too(tmp_path):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                pl_module.generator.image.bias[0] = torch.nan

    run = Run(images=800, validate_every=0, save_every=0)
    with pytest.raises(SystemExit) as stop, pytest.warns(UserWarning, match="not saved after 40 images"):
        fit(game(), tmp_path, callbacks=[Poison(), run, Sender(signal.SIGTERM, 32)])
    assert stop.value.code == 128 + signal.SIGTERM and not Path(tmp_path / "checkpoints").exists()
