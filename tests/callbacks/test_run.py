"""Milestones in images: what is saved, when it validates, and where it stops."""

from __future__ import annotations

import pytest
from lightning.pytorch import Callback

from lightning_avatars.callbacks.run import Run
from tests.conf.training import fit, game


class Validations(Callback):
    def __init__(self):
        self.at = []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.at.append(pl_module.images_seen)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_saves_when_a_milestone_is_crossed_and_at_the_end_and_keeps_the_newest(tmp_path):
    fit(game(), tmp_path, callbacks=[Run(images=52, validate_every=0, save_every=20, keep=2)])
    assert names(tmp_path) == ["images_000000040.ckpt", "images_000000056.ckpt"]


def test_validates_at_intervals_in_images_and_once_more_at_the_end(tmp_path):
    seen = Validations()
    fit(game(), tmp_path, callbacks=[seen, Run(images=56, validate_every=16, save_every=0)])
    assert seen.at == [16, 32, 48, 56]
    assert names(tmp_path) == ["images_000000056.ckpt"]


def test_a_resumed_run_makes_the_validations_that_are_left(tmp_path):
    first, second = Validations(), Validations()
    fit(game(), tmp_path, callbacks=[first, Run(images=32, validate_every=16, save_every=16)])
    checkpoint = tmp_path / "checkpoints/images_000000016.ckpt"
    module = game()
    fit(module, tmp_path, ckpt_path=checkpoint, callbacks=[second, Run(images=48, validate_every=16, save_every=16)])
    assert first.at == [16, 32] and second.at == [32, 48]
    assert module.images_seen == 48


def test_a_finished_run_trains_no_further(tmp_path):
    fit(game(), tmp_path, images=40)
    module = game()
    fit(module, tmp_path, images=40, ckpt_path=tmp_path / "checkpoints/images_000000040.ckpt")
    assert module.images_seen == 40


def test_a_run_that_goes_back_keeps_its_own_checkpoints(tmp_path):
    fit(game(), tmp_path, callbacks=[Run(images=48, validate_every=0, save_every=16, keep=3)])
    kept = [Run(images=40, validate_every=0, save_every=8, keep=2)]
    fit(game(), tmp_path, ckpt_path=tmp_path / "checkpoints/images_000000016.ckpt", callbacks=kept)
    assert names(tmp_path) == ["images_000000032.ckpt", "images_000000040.ckpt"]


def test_intervals_that_batches_do_not_divide_validate_once_at_the_end(tmp_path):
    seen = Validations()
    fit(game(), tmp_path, callbacks=[seen, Run(images=52, validate_every=0)])
    assert seen.at == [56]


def test_a_run_that_is_stopped_early_is_saved(tmp_path):
    class Stop(Callback):
        def on_validation_end(self, trainer, pl_module):
            trainer.should_stop = True

    fit(game(), tmp_path, callbacks=[Stop(), Run(images=400, validate_every=16, save_every=0)])
    assert names(tmp_path) == ["images_000000016.ckpt"]


def test_a_run_of_no_images_is_refused():
    with pytest.raises(ValueError, match="images"):
        Run(images=0)


def test_nothing_half_written_is_left(tmp_path):
    fit(game(), tmp_path, callbacks=[Run(images=16, save_every=8, keep=5)])
    assert names(tmp_path) == ["images_000000008.ckpt", "images_000000016.ckpt"]
