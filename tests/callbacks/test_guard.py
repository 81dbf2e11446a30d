"""What can't get better is seen, said once, and ends the run or sends it back; what is well is left alone."""

from __future__ import annotations

import errno
import json
import math
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_avatars.callbacks.guard import CHECKS, Diverged, Guard, Rollback, finite, variety
from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import images_of
from lightning_avatars.cli import main
from lightning_avatars.terms.base import Term
from tests.conf.faults import checkpoints, equal, training_state
from tests.conf.training import TINY, fit, game
from tests.test_precision import half

QUIET = ["--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]


class Poison(Term):
    """A loss of the generator that is large or not a number, at one moment.

    Args:
        at: Images seen at which it is.
        seed: The only seed with which it is; None for any.
        value: What it is then, and None for not a number; 0 at all other times.
    """

    def __init__(self, at: int, seed: int | None = None, value: float | None = None) -> None:
        super().__init__()
        self.at, self.seed, self.value = at, seed, value

    def forward(self, step):
        if step.module.images_seen != self.at or self.seed not in (None, step.module.seed):
            return 0 * step.fake.mean()
        return step.fake.mean() * math.nan if self.value is None else 0 * step.fake.mean() + self.value


def poisoned(at: int, seed: int | None = None) -> list[str]:
    term = {"class_path": "tests.callbacks.test_guard.Poison", "init_args": {"at": at, "seed": seed}}
    return ["--model.generator_terms", json.dumps({"poison": term})]


def train(folder: Path, guard: Guard, images: int = 400, callbacks: list[Callback] | None = None, **arguments) -> list:
    """Train with a guard and return what it said."""
    run = Run(images=images, validate_every=0, save_every=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(game(**arguments), folder, callbacks=[*(callbacks or []), guard, run])
    return [str(warning.message) for warning in caught if str(warning.message).startswith("after ")]


def test_weights_that_are_no_numbers_end_the_run_and_its_checkpoints_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    often = ["--run.images", "400", "--run.save_every", "8", "--guard.every", "16"]
    with pytest.raises(SystemExit) as stop, pytest.warns(UserWarning, match="not saved after 64 images"):
        main(["fit", "-c", TINY, *QUIET, *often, *poisoned(at=48)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert "error: after 64 images " in said and "weights are no finite numbers" in said and "clip_gradients" in said
    assert checkpoints(Path("runs/tiny/1")) == ["images_000000040.ckpt", "images_000000048.ckpt"]
    for path in Path("runs/tiny/1/checkpoints").iterdir():
        state = training_state(path)["state_dict"]
        assert all(t.isfinite().all() for t in state.values() if isinstance(t, torch.Tensor))


def test_a_run_goes_back_to_its_last_good_checkpoint_and_on_with_another_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    often = ["--run.images", "96", "--run.save_every", "16", "--guard.every", "8", "--guard.rollbacks", "1"]
    with pytest.warns(
        UserWarning, match=r"after 56 images .*going back to .*images_000000048\.ckpt, and on with seed 1"
    ):
        main(["fit", "-c", TINY, *QUIET, *often, *poisoned(at=48, seed=0)])
    assert [folder.name for folder in Path("runs/tiny").iterdir()] == ["1"]
    assert checkpoints(Path("runs/tiny/1")) == ["images_000000080.ckpt", "images_000000096.ckpt"]
    gone_on = training_state(Path("runs/tiny/1/checkpoints/images_000000096.ckpt"))["state_dict"]
    assert all(t.isfinite().all() for t in gone_on.values() if isinstance(t, torch.Tensor))
    main(["fit", "-c", TINY, *QUIET, *often, *poisoned(at=1)])
    seed_0 = training_state(Path("runs/tiny/2/checkpoints/images_000000096.ckpt"))["state_dict"]
    assert not torch.equal(gone_on["generator.image.weight"], seed_0["generator.image.weight"])


def test_rollbacks_come_to_an_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    often = ["--run.images", "96", "--run.save_every", "16", "--guard.every", "8", "--guard.rollbacks", "2"]
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(["fit", "-c", TINY, *QUIET, *often, *poisoned(at=48)])
    assert stop.value.code == 2 and "error: after 56 images" in capsys.readouterr().err
    back = [str(warning.message) for warning in caught if "going back" in str(warning.message)]
    assert [text[-6:] for text in back] == ["seed 1", "seed 2"]
    assert checkpoints(Path("runs/tiny/1")) == ["images_000000032.ckpt", "images_000000048.ckpt"]


def test_without_a_checkpoint_there_is_nowhere_to_go_back_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    often = ["--run.save_every", "0", "--guard.every", "8", "--guard.rollbacks", "3"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", TINY, *QUIET, *often, *poisoned(at=8)])
    assert stop.value.code == 2 and "there is no checkpoint that it can go back to" in capsys.readouterr().err


def test_a_second_rollback_in_a_row_to_the_same_checkpoint_goes_to_the_one_before(tmp_path):
    path, went_to = None, []
    for _ in range(3):
        callbacks = [Guard(8, 3), Run(images=96, validate_every=0, save_every=16, keep=9)]
        with pytest.raises(Rollback) as back:
            fit(game(generator_terms={"poison": Poison(56)}), tmp_path, ckpt_path=path, callbacks=callbacks)
        path = back.value.checkpoint
        went_to.append(images_of(path))
    assert went_to == [48, 32, 48], "by then 48 is another one, which it has not gone back to"


def test_a_rollback_that_a_full_disk_takes_no_note_of_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("lightning_avatars.callbacks.guard.write", full)
    with (
        pytest.raises(Diverged, match="no checkpoint that it can go back to"),
        pytest.warns(UserWarning, match=r"can't go back to .*images_000000048\.ckpt, for the disk refuses"),
    ):
        callbacks = [Guard(8, 1), Run(images=96, validate_every=0, save_every=16)]
        fit(game(generator_terms={"poison": Poison(48)}), tmp_path, callbacks=callbacks)


def test_a_rollback_waits_for_the_checkpoint_that_is_being_written(tmp_path):
    class Slow(Run):
        def tidy(self, path):
            written.append(path.name)
            super().tidy(path)

    written: list[str] = []
    module = game(generator_terms={"poison": Poison(48)})
    with pytest.raises(Rollback) as back:
        fit(module, tmp_path, callbacks=[Guard(8, 1), Slow(images=96, validate_every=0, save_every=16)])
    assert written[-1] == "images_000000048.ckpt" and back.value.seed == 1
    assert checkpoints(tmp_path)[-1] == "images_000000048.ckpt"


def test_nothing_is_said_of_a_healthy_run_and_its_weights_are_the_same(tmp_path):
    assert train(tmp_path / "guarded", Guard(every=16)) == []
    assert train(tmp_path / "unguarded", Guard(every=0)) == []
    guarded, unguarded = (
        training_state(tmp_path / f / "checkpoints/images_000000400.ckpt") for f in ("guarded", "unguarded")
    )
    assert equal(guarded, unguarded)


def test_an_exploding_loss_is_said_when_it_explodes(tmp_path):
    said = train(tmp_path, Guard(every=8), images=80, generator_terms={"large": Poison(40, value=2e6)})
    assert len(said) == 1 and said[0].startswith("after 48 images generator/large is 2e+06: it explodes")


class Win(Callback):
    """Lets the discriminator tell all images apart, from some moment on."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.images_seen + 8 >= self.images:
            pl_module.adversarial_loss = lambda player, step: 0 * step.fake_verdict.logits[0].mean() + 1e-5


@pytest.mark.parametrize(("first", "expected"), [(200, 1), (408 - 8 * (CHECKS - 1), 0)])
def test_a_discriminator_that_has_won_for_some_looks_is_said_once(tmp_path, first, expected):
    said = [text for text in train(tmp_path, Guard(every=8), callbacks=[Win(first)]) if "discriminator's loss" in text]
    assert len(said) == expected
    if expected:
        assert said[0].startswith("after 232 images the discriminator's loss has been below 0.001 for 5 looks")


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


class Collapse(Callback):
    """Lets the generator make one image only, from some moment on."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.images_seen >= self.images:
            for network in (pl_module.generator, pl_module.average.average):
                network.hidden.weight.data.zero_()


def test_variety_is_nothing_where_all_samples_are_one_image():
    module = game()
    module.average.average.image.weight.data.mul_(20)
    assert variety(module, pictures()) > 0.15
    module.average.average.hidden.weight.data.zero_()
    assert variety(module, pictures()) == pytest.approx(0, abs=1e-6)


def test_vanished_diversity_is_said_once_in_a_run_that_once_had_it(tmp_path):
    class Varied(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.average.average.image.weight.data.mul_(20)

    said = train(tmp_path, Guard(every=8), images=160, callbacks=[Varied(), Collapse(80)])
    assert len(said) == 1 and said[0].startswith("after 112 images samples differ 0.0% as much as pictures do")


@pytest.mark.parametrize(("patient", "expected"), [(80, 1), (10_000, 0)])
def test_samples_that_never_differed_are_said_once_a_generator_should_have_learned(
    tmp_path, patient, expected, monkeypatch
):
    monkeypatch.setattr("lightning_avatars.callbacks.guard.PATIENT", patient)
    said = train(tmp_path, Guard(every=8), images=160, callbacks=[Collapse(0)])
    assert len(said) == expected
    if expected:
        assert said[0].startswith("after 120 images samples differ 0.0% as much as pictures do")


class Lose(Callback):
    """Lets the generator's loss be infinite for some batches."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        hit = self.first <= pl_module.images_seen < self.last
        pl_module.adversarial_loss = partial(self.loss, pl_module) if hit else pl_module.game_loss

    def on_fit_start(self, trainer, pl_module):
        pl_module.game_loss = pl_module.adversarial_loss

    def loss(self, module, player, step):
        return module.game_loss(player, step) * (math.inf if player == "generator" else 1)


def test_an_infinite_loss_ends_a_run_at_once_where_no_scaler_leaves_the_step_out(tmp_path):
    with pytest.raises(Diverged, match=r"after 48 images generator/adversarial is inf"):
        fit(game(), tmp_path, images=160, callbacks=[Lose(40, 48), Guard(every=8), Run(160, 0, 0)])


def test_a_scaler_leaves_out_some_infinite_losses_before_the_run_ends(tmp_path):
    module, plugin = game(), half()
    plugin.scaler.set_growth_interval(1000)
    spared = [Lose(40, 40 + 8 * (CHECKS - 1)), Guard(every=8), Run(160, 0, 0)]
    fit(module, tmp_path / "spared", images=160, callbacks=spared, plugins=[plugin])
    assert module.images_seen == 160 and finite(module)
    assert plugin.scaler.get_scale() == 2.0 ** (8 - (CHECKS - 1))
    with pytest.raises(Diverged, match=r"after 80 images generator/adversarial is inf"):
        ended = [Lose(40, 160), Guard(every=8), Run(160, 0, 0)]
        fit(game(), tmp_path / "ended", images=160, callbacks=ended, plugins=[half()])


def test_weights_that_are_no_numbers_end_the_run_at_once_with_a_scaler_too(tmp_path):
    class Break(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if pl_module.images_seen == 40:
                pl_module.generator.image.bias.data.fill_(torch.nan)

    with pytest.raises(Diverged, match=r"after 40 images weights are no finite numbers"):
        fit(game(), tmp_path, images=160, callbacks=[Break(), Guard(every=8), Run(160, 0, 0)], plugins=[half()])


def test_what_the_guard_has_counted_is_kept_over_a_resume():
    guard, other = Guard(), Guard()
    guard.counts |= {"lost": 4, "exploded": 1, "won": 3, "alike": 2, "varied": 1, "gone_back": 2}
    other.load_state_dict(guard.state_dict())
    assert other.counts == guard.counts


def test_finite_sees_parameters_and_buffers():
    module = game(normalized=True)
    assert finite(module)
    module.discriminator.norm.running_var[0] = torch.inf
    assert not finite(module)
    module = game()
    module.generator.image.bias.data[0] = torch.nan
    assert not finite(module)


def test_learning_rates_that_explode_end_the_run_before_anything_broken_is_saved(tmp_path):
    module = game(discriminator_optimizer=lambda p: torch.optim.SGD(p, 1e20))
    with pytest.raises(Diverged, match=r"after \d+ images .*Try a lower learning rate"):
        fit(module, tmp_path, callbacks=[Guard(every=8), Run(images=400, validate_every=0, save_every=8)])
    for name in checkpoints(tmp_path):
        state = training_state(tmp_path / "checkpoints" / name)["state_dict"]
        assert all(t.isfinite().all() for t in state.values() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("wrong", [{"every": -1}, {"rollbacks": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 0"):
        Guard(**wrong)
