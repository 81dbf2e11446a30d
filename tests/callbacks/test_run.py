"""Milestones in images: what is saved, when it validates, and where it stops."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import SimpleProfiler

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import read_checkpoint
from lightning_avatars.profiling import Unprofiled
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
    assert names(tmp_path) == ["images_000000048.ckpt", "images_000000056.ckpt"], "each is saved before it validates"


def test_validations_and_checkpoints_of_one_interval_are_of_the_same_batches(tmp_path):
    seen, scored = Validations(), SampleQuality(images=20, every=40)
    fit(game(), tmp_path, callbacks=[seen, scored, Run(images=96, validate_every=20, save_every=20, keep=9)])
    assert seen.at == [24, 40, 64, 80, 96]
    assert names(tmp_path) == [f"images_{images:09d}.ckpt" for images in seen.at]
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["images_seen"] for r in results] == [24, 40, 80, 96], "the first, where 40 are crossed, and the last"


@pytest.mark.parametrize(("images", "every", "at"), [(48, 48, [96, 144, 160]), (56, 0, [168])])
def test_another_batch_size_validates_after_as_many_images_as_before(tmp_path, images, every, at):
    fit(game(), tmp_path, callbacks=[Run(images=images, validate_every=every, save_every=0)])
    seen, checkpoint = Validations(), tmp_path / f"checkpoints/images_{images:09d}.ckpt"
    run = Run(images=160, validate_every=every, save_every=0)
    fit(game(), tmp_path, ckpt_path=checkpoint, batch_size=16, callbacks=[seen, run])
    assert seen.at == at


def test_a_checkpoint_that_something_else_has_removed_is_no_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_avatars.callbacks.run.by_age", lambda folder: [tmp_path / "a", tmp_path / "b"])
    Run(keep=1).tidy(tmp_path / "checkpoints/b")


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


class Scores(Callback):
    """Logs a score at each validation that is best at one of them."""

    def __init__(self, scores, name="val/fd_pixels_20"):
        self.scores, self.name = scores, name

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log(self.name, self.scores[pl_module.images_seen])


def watched(images, **arguments):
    return Run(
        **{"images": images, "validate_every": 16, "save_every": 0, "keep": 1, "best": "val/fd_pixels_20"} | arguments
    )


LOWER_IS_BETTER = {16: 5.0, 32: 3.0, 48: 4.0, 64: 3.5, 80: 2.0}


def images_of(path):
    return read_checkpoint(path)["state_dict"]["_extra_state"]["images_seen"]


class Clock(Callback):
    """Two seconds pass in each batch, and a hundred in each validation."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 2

    def on_validation_epoch_end(self, trainer, pl_module):
        self.now += 100


def trained_in(path):
    return next(s["trained"] for s in read_checkpoint(path)["callbacks"].values() if "trained" in s)


def test_seconds_of_training_go_on_where_a_run_does(tmp_path, monkeypatch):
    clock, checkpoints = Clock(), tmp_path / "checkpoints"
    monkeypatch.setattr("lightning_avatars.callbacks.run.time", clock)
    fit(game(), tmp_path, callbacks=[clock, Run(images=48, validate_every=24, save_every=16)])
    assert trained_in(checkpoints / "images_000000048.ckpt") == {"seconds": 12, "first_image": 0}
    clock.now += 10_000
    run = Run(images=80, validate_every=24, save_every=16)
    fit(game(), tmp_path, ckpt_path=checkpoints / "images_000000048.ckpt", callbacks=[clock, run])
    assert trained_in(checkpoints / "images_000000080.ckpt") == {"seconds": 20, "first_image": 0}
    assert run.training_seconds() == 20


def test_a_checkpoint_of_before_says_no_seconds_and_those_since_count(tmp_path):
    run = Run(images=32, validate_every=0, save_every=16)
    fit(game(), tmp_path, callbacks=[run])
    kept = read_checkpoint(tmp_path / "checkpoints/images_000000016.ckpt")
    for state in kept["callbacks"].values():
        state.pop("trained", None)
    torch.save(kept, tmp_path / "older.ckpt")
    fit(game(), tmp_path, ckpt_path=tmp_path / "older.ckpt", callbacks=[run])
    assert run.first_image == 16


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(64)])
    assert names(tmp_path) == ["best.ckpt", "images_000000064.ckpt"]
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32


def test_where_more_is_better_the_highest_is_the_best(tmp_path):
    scores = {16: 0.3, 32: 0.6, 48: 0.5}
    fit(
        game(),
        tmp_path,
        callbacks=[Scores(scores, "val/coverage_pixels_20"), watched(48, best="val/coverage_pixels_20")],
    )
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32


def test_no_number_is_never_the_best(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores({16: math.nan, 32: 3.0, 48: math.nan}), watched(48)])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32


@pytest.mark.parametrize(("images", "best"), [(64, 32), (80, 80)])
def test_the_best_score_is_remembered_where_a_run_goes_on(tmp_path, images, best):
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(48)])
    newest = tmp_path / "checkpoints/images_000000048.ckpt"
    fit(game(), tmp_path, ckpt_path=newest, callbacks=[Scores(LOWER_IS_BETTER), watched(images)])
    assert names(tmp_path) == ["best.ckpt", f"images_{images:09d}.ckpt"]
    assert images_of(tmp_path / "checkpoints/best.ckpt") == best


def test_another_score_starts_anew(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(32)])
    newest = tmp_path / "checkpoints/images_000000032.ckpt"
    other = [Scores({48: 9.0}, "val/kd_pixels_20"), watched(48, best="val/kd_pixels_20")]
    fit(game(), tmp_path, ckpt_path=newest, callbacks=other)
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 48


def test_a_score_that_is_not_logged_is_named_with_those_that_are(tmp_path):
    with pytest.warns(UserWarning, match=r"run\.best is 'val/fd_other', .* it logged .*val/fd_pixels_20"):
        fit(game(), tmp_path, callbacks=[Scores({16: 1.0}), watched(16, best="val/fd_other")])
    assert names(tmp_path) == ["images_000000016.ckpt"]


def test_without_links_the_best_is_copied(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(48)])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32


def test_a_run_can_go_on_from_its_best(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(64)])
    module = game()
    callbacks = [Scores(LOWER_IS_BETTER), watched(48)]
    fit(module, tmp_path, ckpt_path=tmp_path / "checkpoints/best.ckpt", callbacks=callbacks)
    assert module.images_seen == 48 and "best.ckpt" in names(tmp_path)


def test_a_best_that_could_not_be_kept_is_not_noted(tmp_path, monkeypatch):
    def full(temporary, path):
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("lightning_avatars.callbacks.run.put_in_place", full)
    run = watched(32)
    with pytest.warns(UserWarning, match=r"best\.ckpt, the checkpoint with the best val/fd_pixels_20"):
        fit(game(), tmp_path, callbacks=[Scores({16: 3.0, 32: 4.0}), run])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32 and run.best_value == 4


def test_a_checkpoint_that_could_not_be_written_is_not_the_best(tmp_path, monkeypatch):
    def full(checkpoint, path, then):
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("lightning_avatars.checkpoints.write", full)
    run = watched(32)
    with pytest.warns(UserWarning, match=r"THE DISK IS FULL: the checkpoint .*images_000000016\.ckpt"):
        fit(game(), tmp_path, callbacks=[Scores({16: 3.0, 32: 4.0}), run])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 32 and run.best_value == 4


@pytest.mark.parametrize("place", ["lightning_avatars.callbacks.run.put_in_place", None])
def test_a_best_is_neither_lost_nor_noted_without_its_file_when_the_run_is_cut_off_there(tmp_path, monkeypatch, place):
    def cut_off(*arguments):
        if not place:
            whole(*arguments)
        raise KeyError

    run, whole = {"images": 32, "validate_every": 16, "save_every": 0, "best": "val/fd_pixels_20"}, Run.keep_best
    monkeypatch.setattr(place or "lightning_avatars.callbacks.run.Run.keep_best", cut_off)
    with pytest.raises(KeyError):
        fit(game(), tmp_path, callbacks=[Scores({16: 3.0, 32: 4.0}), Run(**run)])
    monkeypatch.undo()
    path, again = tmp_path / "checkpoints/images_000000016.ckpt", Run(**run)
    assert math.isnan(best_value_in(path))
    fit(game(), tmp_path, ckpt_path=path, callbacks=[Scores({16: 3.0, 32: 4.0}), again])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 16 and again.best_value == 3
    assert best_value_in(tmp_path / "checkpoints/images_000000032.ckpt") == 3


def best_value_in(path):
    return next(s["best_value"] for name, s in read_checkpoint(path)["callbacks"].items() if "best_value" in s)


def test_a_best_whose_file_is_gone_is_forgotten(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores({16: 3.0, 32: 4.0}), watched(32)])
    (tmp_path / "checkpoints/best.ckpt").unlink()
    newest = tmp_path / "checkpoints/images_000000032.ckpt"
    fit(game(), tmp_path, ckpt_path=newest, callbacks=[Scores({48: 5.0}), watched(48)])
    assert images_of(tmp_path / "checkpoints/best.ckpt") == 48


def test_a_run_that_goes_on_from_its_best_scores_it_again_and_knows_it(tmp_path):
    fit(game(), tmp_path, callbacks=[Scores(LOWER_IS_BETTER), watched(64)])
    again = watched(48)
    fit(game(), tmp_path, ckpt_path=tmp_path / "checkpoints/best.ckpt", callbacks=[Scores(LOWER_IS_BETTER), again])
    assert again.best_value == 3 and images_of(tmp_path / "checkpoints/best.ckpt") == 32


def test_a_checkpoint_that_lightning_is_asked_for_with_storage_options_is_whole_too(tmp_path):
    trainer = fit(game(), tmp_path, images=16)
    trainer.strategy.connect(trainer.lightning_module)
    path = tmp_path / "elsewhere/asked.ckpt"
    trainer.save_checkpoint(path, storage_options={"anything": 1})
    trainer.strategy.checkpoint_io.finish()
    assert images_of(path) == 16 and [file.name for file in path.parent.iterdir()] == ["asked.ckpt"]


@pytest.mark.parametrize(("asked", "kind"), [(None, Unprofiled), ("simple", SimpleProfiler)])
def test_a_profiler_that_is_asked_for_is_kept(tmp_path, asked, kind):
    trainer = fit(game(), tmp_path, profiler=asked)
    assert type(trainer.profiler) is kind
    if asked is not None:
        assert trainer.profiler.recorded_durations["run_training_batch"]
