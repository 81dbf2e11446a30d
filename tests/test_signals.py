"""Signals are noted while a run trains, obeyed between two batches, and given back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_avatars.callbacks.run import Run
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


@pytest.mark.parametrize(("in_validation", "images", "saved"), [(True, 32, 40), (False, 24, 32)])
def test_no_validation_is_lost_to_a_signal(tmp_path, in_validation, images, saved):
    class Validations(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(pl_module.images_seen)

    seen: list[int] = []
    run = Run(images=64, validate_every=32, save_every=0)
    with pytest.raises(SystemExit):
        fit(game(), tmp_path, callbacks=[Validations(), run, Sender(signal.SIGTERM, images, in_validation)])
    assert seen == [32] and checkpoints(tmp_path) == [f"images_{saved:09d}.ckpt"]
    path = tmp_path / f"checkpoints/images_{saved:09d}.ckpt"
    fit(game(), tmp_path, ckpt_path=path, callbacks=[Validations(), Run(images=64, validate_every=32, save_every=0)])
    assert seen == [32, 64]


def test_a_run_whose_weights_are_no_numbers_obeys_too(tmp_path):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                pl_module.generator.image.bias[0] = torch.nan

    run = Run(images=800, validate_every=0, save_every=0)
    with pytest.raises(SystemExit) as stop, pytest.warns(UserWarning, match="not saved after 40 images"):
        fit(game(), tmp_path, callbacks=[Poison(), run, Sender(signal.SIGTERM, 32)])
    assert stop.value.code == 128 + signal.SIGTERM and not Path(tmp_path / "checkpoints").exists()
