"""What a person sees of a run: speed, score and, at the end, where everything lies."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.progress import ImageProgress, is_headline
from lightning_avatars.callbacks.run import Run
from tests.conf.training import fit, game


def progress_bar() -> tuple[ImageProgress, io.StringIO]:
    """A bar that writes to a string."""
    bar, written = ImageProgress(), io.StringIO()
    bar.console = Console(file=written, width=100)
    return bar, written


def test_a_run_ends_with_its_speed_scores_and_paths(tmp_path):
    bar, written = progress_bar()
    preview, quality = Preview(every=40), SampleQuality(images=20)
    callbacks = [Run(images=40, validate_every=0), preview, quality, bar]
    trainer = fit(game(), tmp_path, callbacks=callbacks, enable_progress_bar=True)
    said = written.getvalue()
    assert re.search(r"kimg, [\d,]+ images/s, 0:00:00 left fd_avatarnet_20 ", said)
    bar_says, _, table = said.partition("40 images in ")
    score = float(trainer.callback_metrics["val/fd_avatarnet_20"])
    assert f"fd_avatarnet_20 {score:.3g}" in bar_says and "floor" not in bar_says
    floor = float(trainer.callback_metrics["val/fd_avatarnet_20_floor"])
    assert re.search(rf"fd_avatarnet_20 +│ {re.escape(f'{score:.4g}')} +│ {re.escape(f'{floor:.4g}')} ", table)
    assert "logit_real" in table and "val/" not in table
    assert f"samples: {tmp_path}/previews/samples_000000040.png\n" in table
    assert table.endswith(f"run: {tmp_path}\n")


@pytest.mark.parametrize(("rank", "disabled"), [(1, False), (0, True)])
def test_other_processes_and_a_disabled_bar_say_nothing(rank, disabled):
    bar, written = progress_bar()
    trainer = SimpleNamespace(
        is_global_zero=rank == 0, callbacks=[Run(images=8)], default_root_dir="here", callback_metrics={},
        world_size=1, datamodule=SimpleNamespace(batch_size=8, channels=3, resolution=8),
    )  # fmt: skip
    module = SimpleNamespace(images_seen=8, memory_need=lambda *_: None)
    bar.setup(trainer, module, "fit")
    if disabled:
        bar.disable()
    bar.on_train_start(trainer, module)
    bar.on_train_batch_end(trainer, module, None, {}, 0)
    bar.on_validation_end(trainer, module)
    bar.on_train_end(trainer, module)
    bar.on_exception(trainer, module, KeyboardInterrupt())
    assert written.getvalue() == ""
    bar.enable()
    trainer.is_global_zero = True
    bar.on_train_start(trainer, module)
    bar.on_train_end(trainer, module)
    assert "run: here" in written.getvalue()


def test_a_resumed_run_counts_its_speed_from_where_it_went_on(monkeypatch):
    bar, written = progress_bar()
    trainer = SimpleNamespace(
        is_global_zero=True,
        callbacks=[Run(images=4000)],
        default_root_dir="",
        callback_metrics={"val/accuracy": torch.tensor(0.5)},
    )
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("lightning_avatars.callbacks.progress.time.monotonic", lambda: next(clock))
    module = SimpleNamespace(images_seen=1000, memory_need=lambda *_: None)
    trainer.world_size, trainer.datamodule = 1, SimpleNamespace(batch_size=8, channels=3, resolution=8)
    bar.on_train_start(trainer, module)
    module.images_seen = 3000
    bar.on_train_batch_end(trainer, module, None, {}, 0)
    bar.on_train_end(trainer, module)
    assert "3.0/4 kimg, 200 images/s" in written.getvalue()
    assert "3,000 images in 20 s" in " ".join(written.getvalue().split())


def test_an_error_leaves_no_bar_running(tmp_path):
    bar, _ = progress_bar()
    module = game()
    module.training_step = lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        fit(module, tmp_path, callbacks=[Run(images=8), bar], enable_progress_bar=True)
    assert bar.bar is None or not bar.bar.live.is_started


def test_only_scores_of_the_validation_are_shown():
    metrics = {"val/fd_a_1k": torch.tensor(2.0), "train/loss": torch.tensor(1.0), "step": torch.tensor(8.0)}
    assert ImageProgress().scores(SimpleNamespace(callback_metrics=metrics)) == {"fd_a_1k": 2.0}


@pytest.mark.parametrize(
    ("name", "worth"),
    [
        ("fd_avatarnet_5k", True), ("accuracy", True), ("accuracy_5k", True),
        ("fd_avatarnet_5k_floor", False), ("accuracy/hair", False), ("logit_real", False),
    ],
)  # fmt: skip
def test_headlines_leave_out_floors_and_single_attributes(name, worth):
    assert is_headline(name) == worth
