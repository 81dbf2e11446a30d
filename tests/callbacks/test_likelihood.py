"""How likely held-out pictures are is scored, logged and written; training does not notice."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_avatars.callbacks.likelihood import LikelihoodQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import to_float
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, game


class Likely(Adversarial):
    """A game that also says how likely real pictures are, with random numbers and its own batch-normalised network."""

    def log_weights(self, batch, samples, draws):
        noise = torch.randn(len(batch["image"]), self.generator.latent_dim, device=self.device)
        made = self.generator(noise)
        close = -(made - to_float(batch["image"])).square().flatten(1).mean(1, keepdim=True)
        return close + draws.normal("binarisation", 1) + torch.randn(len(made), samples)

    def likelihood_facts(self):
        return {"likelihood": "closeness", "of": "bits", "binarisation": "none"}


def likely(**options) -> Likely:
    one = game(**options)
    return Likely(
        one.generator, one.discriminator, one.objective, average_half_life=100,
        generator_optimizer=one.optimizer_factories["generator"],
        discriminator_optimizer=one.optimizer_factories["discriminator"],
    )  # fmt: skip


class Bordered(TinyFaces):
    """Pictures whose outermost pixels are empty."""

    def border(self, resolution):
        return 1 if resolution == 8 else 0


def results(folder):
    return json.loads((folder / "results.json").read_text())["results"]


def data(split=(0.7, 0.15, 0.15)) -> FaceData:
    dataset = Bordered()
    dataset.split = split
    return FaceData(dataset, resolution=8, batch_size=8, num_workers=0)


def trainer(folder, *callbacks, **options) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
        default_root_dir=folder, callbacks=list(callbacks), use_distributed_sampler=False,
        check_val_every_n_epoch=None, val_check_interval=1_000_000, **options,
    )  # fmt: skip


def test_every_validation_scores_and_logs_with_a_passport(tmp_path):
    module = likely()
    made = fit(
        module, tmp_path, data=data(),
        callbacks=[LikelihoodQuality(samples=3, block=5), Run(images=16, validate_every=8)],
    )  # fmt: skip
    found = results(tmp_path)
    assert [(r["stage"], r["images_seen"], r["set"]) for r in found] == [
        ("val", 8, "likelihood"), ("val", 16, "likelihood"),
    ]  # fmt: skip
    passport, scores = found[-1]["passport"], found[-1]["scores"]
    count = len(made.datamodule.store.split("val"))
    assert passport["images"] == count and passport["weights"] == "average" and passport["block"] == 5
    assert passport["importance_samples"] == 3 and passport["binarisation"] == "none"
    assert passport["dimensions"] == 3 * 6 * 6 and passport["border"] == 1
    assert scores.keys() == {f"{name}_{count}" for name in ("nll_elbo", "nll_iwae3", "bpd_elbo", "bpd_iwae3")}
    for name, score in scores.items():
        logged = made.callback_metrics[f"val/likelihood/{name}"]
        assert float(logged) == pytest.approx(score["value"], rel=1e-6), name
        assert score["interval"][0] < score["value"] < score["interval"][1]


def test_a_test_scores_the_test_split_and_at_most_so_many_pictures(tmp_path):
    faces = data()
    one = trainer(tmp_path, LikelihoodQuality(images=11))
    one.test(likely(), faces, verbose=False)
    result = results(tmp_path)[0]
    assert (result["stage"], result["passport"]["reference"]["split"]) == ("test", "test")
    assert result["passport"]["images"] == 11 and "test/likelihood/nll_iwae10_11" in one.callback_metrics


def test_a_run_with_scores_and_one_without_end_with_the_same_weights(tmp_path):
    found = []
    for enabled in (True, False):
        module = likely(normalized=True)
        quality = LikelihoodQuality(samples=2, enabled=enabled)
        fit(module, tmp_path / str(enabled), callbacks=[quality, Run(images=32, validate_every=8)])
        found.append(({k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}, module.training))
    (weights, mode), (others, other_mode) = found
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert mode == other_mode and len(results(tmp_path / "True")) == 4
    assert not (tmp_path / "False/results.json").exists()


def test_a_family_without_likelihoods_is_left_alone(tmp_path):
    fit(game(), tmp_path, callbacks=[LikelihoodQuality(images=1), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()


def test_sanity_checking_scores_nothing(tmp_path):
    one = trainer(tmp_path, LikelihoodQuality(), Run(images=8, validate_every=0), num_sanity_val_steps=2)
    one.fit(likely(), data())
    assert [r["images_seen"] for r in results(tmp_path)] == [8]


def test_bad_numbers_are_told_before_training_starts(tmp_path):
    with pytest.raises(ValueError, match="block must be at least 1, got 0 and 250"):
        LikelihoodQuality(samples=0)
    module = likely()
    module.training_step = lambda *_: pytest.fail("training has started")
    with pytest.raises(ValueError, match="at least 10 images on either side, but only 9 pictures of the val split"):
        trainer(tmp_path, LikelihoodQuality(images=9), Run(images=8)).fit(module, data())


def test_scores_do_not_depend_on_what_was_scored_before(tmp_path):
    module, faces = likely(), data()
    trainer(tmp_path, LikelihoodQuality(samples=3)).test(module, faces, verbose=False)
    torch.rand(5)
    trainer(tmp_path / "again", LikelihoodQuality(samples=3)).test(module, faces, verbose=False)
    assert results(tmp_path)[0]["scores"] == results(tmp_path / "again")[0]["scores"]
