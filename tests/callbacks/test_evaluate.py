"""Scores that do not depend on blocks, and that say what they were made of."""

from __future__ import annotations

import json

import pytest
import torch

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.run import Run
from tests.conf.training import fit, game


def scored(folder, quality, **arguments):
    module = game(**arguments)
    trainer = fit(module, folder, callbacks=[quality, Run(images=24, validate_every=0)])
    return trainer, json.loads((folder / "results.json").read_text())["results"][0]


def test_the_score_does_not_depend_on_the_blocks(tmp_path):
    made = [scored(tmp_path / str(block), SampleQuality(images=21, block=block))[1] for block in (4, 50)]
    assert made[0]["scores"]["fd_avatarnet_21"] == pytest.approx(made[1]["scores"]["fd_avatarnet_21"], rel=1e-4)
    assert made[0]["passport"]["images"] == 21


def test_scores_are_logged_with_their_floor(tmp_path):
    trainer, result = scored(tmp_path, SampleQuality(images=20))
    assert float(trainer.callback_metrics["val/fd_avatarnet_20"]) == pytest.approx(result["scores"]["fd_avatarnet_20"])
    floor = float(trainer.callback_metrics["val/fd_avatarnet_20_floor"])
    assert floor == pytest.approx(result["floor"]["fd_avatarnet_20"]) and floor < result["scores"]["fd_avatarnet_20"]


def test_attributes_are_judged_only_by_a_recogniser_that_knows_them(tmp_path):
    _, result = scored(tmp_path, SampleQuality(images=20), conditional=True)
    assert result["accuracy"] == {} and "accuracy_20" not in result["scores"]


def test_a_generator_that_diverged_scores_nan_and_the_run_goes_on(tmp_path):
    module = game()
    with torch.no_grad():
        module.generator.image.weight.fill_(float("nan"))
    with pytest.warns(UserWarning, match="not finite"):
        fit(module, tmp_path, callbacks=[SampleQuality(images=20), Run(images=8, validate_every=0)])
    assert module.images_seen == 8


def test_switched_off_it_writes_nothing(tmp_path):
    fit(game(), tmp_path, callbacks=[SampleQuality(enabled=False), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_extractor_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="avatarnet"):
        scored(tmp_path, SampleQuality(images=20, extractor="avatarnt"))
