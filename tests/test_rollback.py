"""A run that went back goes on as it would have, whatever interrupts it, by the command line it was started with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml

from lightning_avatars.callbacks.guard import Diverged, Guard, Rollback
from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import read_checkpoint
from lightning_avatars.cli import main
from tests.callbacks.test_guard import Poison, poisoned
from tests.conf.faults import checkpoints, equal, training_state
from tests.conf.training import TINY, fit, game

QUIET = ["--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false", "--resume", "auto"]
OFTEN = ["--run.images", "96", "--run.save_every", "16", "--guard.every", "8", "--guard.rollbacks", "1"]
FLIPPED = ["--data.horizontal_flip", "true", "--seed_everything", "4"]
COMMAND = ["fit", "-c", TINY, *QUIET, *OFTEN, *FLIPPED, *poisoned(at=48, seed=4)]
END = "checkpoints/images_000000096.ckpt"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def counts(path: Path) -> dict[str, int]:
    return read_checkpoint(path)["callbacks"]["Guard"]


def test_a_run_interrupted_after_it_went_back_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Told to stop after 72 images, of which those from 48 on are of the second try."""
    seeds = []

    look = Guard.on_train_batch_end

    def told(guard, trainer, module, *rest):
        seeds.append((module.images_seen, module.seed, trainer.datamodule.seed))
        if module.images_seen == 72 and stops:
            os.kill(os.getpid(), signal.SIGTERM)
        look(guard, trainer, module, *rest)

    monkeypatch.setattr(Guard, "on_train_batch_end", told)
    for name, stops in (("whole", False), ("parts", True)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        seeds.clear()
        with pytest.warns(UserWarning, match="on with seed 5"):
            if stops:
                with pytest.raises(SystemExit) as stop:
                    main(COMMAND)
                assert stop.value.code == 128 + signal.SIGTERM
            else:
                main(COMMAND)
        if stops:
            saved = yaml.safe_load(Path("runs/tiny/1/config.yaml").read_text())  # a template starts as this run did
            assert (saved["seed_everything"], saved["model"]["init_args"]["seed"], saved["data"]["seed"]) == (4, 4, 4)
            assert saved["guard"]["rollbacks"] == 1 and saved["ckpt_path"] is None
            main(COMMAND)
        assert [folder.name for folder in Path("runs/tiny").iterdir()] == ["1"]
        assert seeds == [(n, 4, 4) for n in range(8, 57, 8)] + [(n, 5, 5) for n in range(56, 97, 8)]
    whole, parts = tmp_path / "whole/runs/tiny/1" / END, tmp_path / "parts/runs/tiny/1" / END
    assert equal(training_state(whole), training_state(parts)) and counts(whole) == counts(parts)
    assert counts(whole)["gone_back"] == 1


def test_a_run_killed_right_after_it_went_back_tries_the_other_seed_and_no_more_than_that():
    with pytest.raises(Rollback) as back:
        fit(
            game(generator_terms={"poison": Poison(48)}),
            Path("run"),
            images=96,
            callbacks=[Guard(8, 1), Run(96, 0, 16)],
        )
    assert back.value.checkpoint.name == "images_000000048.ckpt" and counts(back.value.checkpoint)["gone_back"] == 1
    module = game(generator_terms={"poison": Poison(48, seed=0)})
    trainer = fit(
        module, Path("run"), images=96, callbacks=[Guard(8, 1), Run(96, 0, 16)], ckpt_path=back.value.checkpoint
    )
    assert module.seed == trainer.datamodule.seed == 1 and module.images_seen == 96
    assert checkpoints(Path("run"))[-1] == "images_000000096.ckpt"


def test_a_checkpoint_that_was_gone_back_to_holds_all_that_it_did():
    for rollbacks, end in ((0, Diverged), (1, Rollback)):
        with pytest.raises(end):
            module, callbacks = game(generator_terms={"poison": Poison(48)}), [Guard(8, rollbacks), Run(96, 0, 48)]
            fit(module, Path(str(rollbacks)), images=96, callbacks=callbacks)
    plain, noted = (read_checkpoint(Path(f"{n}/checkpoints/images_000000048.ckpt")) for n in (0, 1))
    assert plain.keys() == noted.keys()
    assert noted["callbacks"]["Guard"] == plain["callbacks"]["Guard"] | {"gone_back": 1, "back_to": 48}
    assert all(equal(noted[name], plain[name]) for name in ("state_dict", "optimizer_states", "loops", "global_step"))
