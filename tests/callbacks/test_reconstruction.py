"""What a family makes of held-out pictures is scored, logged and written; training does not notice."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.reconstruction import ReconstructionQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import to_float
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, game


class Remaking(Adversarial):
    """A game that also makes something of real pictures, with random numbers and its own batch-normalised network."""

    def evaluation_sets(self, batch):
        noise = torch.randn(len(batch["image"]), self.generator.latent_dim, device=self.device)
        made = self.generator(noise, batch["labels"] if self.conditional else None)
        return {
            "reconstruction": EvaluationSet((made + 3 * to_float(batch["image"])) / 4, batch["image"]),
            "style": EvaluationSet(made, reference=batch["image"]),
        }


def remaking(**options) -> Remaking:
    one = game(**options)
    return Remaking(
        one.generator, one.discriminator, one.objective, conditional=one.conditional, average_half_life=100,
        generator_optimizer=one.optimizer_factories["generator"],
        discriminator_optimizer=one.optimizer_factories["discriminator"],
    )  # fmt: skip


def results(folder):
    return json.loads((folder / "results.json").read_text())["results"]


def data(split=(0.7, 0.15, 0.15)) -> FaceData:
    dataset = TinyFaces()
    dataset.split = split
    return FaceData(dataset, resolution=8, batch_size=8, num_workers=0)


def trainer(folder, *callbacks, **options) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
        default_root_dir=folder, callbacks=list(callbacks), use_distributed_sampler=False,
        check_val_every_n_epoch=None, val_check_interval=1_000_000, **options,
    )  # fmt: skip


def test_every_validation_scores_and_logs_each_set(tmp_path):
    module, quality = remaking(), ReconstructionQuality()
    made = fit(module, tmp_path, callbacks=[quality, Run(images=16, validate_every=8)])
    found = results(tmp_path)
    assert [(r["stage"], r["images_seen"], r["set"]) for r in found] == [
        ("val", 8, "reconstruction"), ("val", 8, "style"), ("val", 16, "reconstruction"), ("val", 16, "style"),
    ]  # fmt: skip
    count = found[-1]["passport"]["images"]
    assert count == len(made.datamodule.store.split("val"))
    assert {f"{name}_{count}" for name in ("mse", "psnr", "ssim")} <= found[-2]["scores"].keys()
    for result in found[-2:]:
        assert f"fd_avatarnet_{count}" in result["scores"] and result["passport"]["reference"]["split"] == "val"
        for name, score in result["scores"].items():
            logged = made.callback_metrics[f"val/{result['set']}/{name}"]
            assert float(logged) == pytest.approx(score["value"], rel=1e-6), name
    assert f"psnr_{count}" not in found[-1]["scores"]  # which has no targets


def test_a_test_scores_the_test_split_and_at_most_so_many_pictures(tmp_path):
    faces = data()
    one = trainer(tmp_path, ReconstructionQuality(images=11))
    one.test(remaking(), faces, verbose=False)
    result = results(tmp_path)[0]
    assert (result["stage"], result["passport"]["reference"]["split"]) == ("test", "test")
    assert result["passport"]["images"] == 11 and "test/reconstruction/psnr_11" in one.callback_metrics
    assert len(faces.store.split("test")) > 11


def test_sanity_checking_scores_nothing(tmp_path):
    one = trainer(tmp_path, ReconstructionQuality(), Run(images=8, validate_every=0), num_sanity_val_steps=2)
    one.fit(remaking(), data())
    assert [r["images_seen"] for r in results(tmp_path)] == [8, 8]


@pytest.mark.parametrize("options", [{}, {"conditional": True, "normalized": True}])
def test_a_run_with_scores_and_one_without_end_with_the_same_weights(tmp_path, options):
    found = []
    for enabled in (True, False):
        module = remaking(**options)
        quality = [ReconstructionQuality(enabled=enabled), SampleQuality(images=20, enabled=enabled)]
        fit(module, tmp_path / str(enabled), callbacks=[*quality, Run(images=32, validate_every=8)])
        found.append(({k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}, module.training))
    (weights, mode), (others, other_mode) = found
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert mode == other_mode and len(results(tmp_path / "True")) == 4 * 3
    assert not (tmp_path / "False/results.json").exists()


def test_a_family_that_only_samples_has_nothing_loaded_or_scored(tmp_path):
    quality = ReconstructionQuality(extractors=["no such thing"])
    fit(game(), tmp_path, callbacks=[quality, Run(images=8, validate_every=0)])
    assert quality.judges is None and not (tmp_path / "results.json").exists()


def test_a_diverged_model_scores_nan_and_the_run_goes_on(tmp_path):
    module = remaking()
    with torch.no_grad():
        module.generator.image.weight.fill_(float("nan"))
    with pytest.warns(UserWarning, match="images of style are not finite"):
        made = fit(module, tmp_path, callbacks=[ReconstructionQuality(), Run(images=8, validate_every=0)])
    for result in results(tmp_path):
        for name, score in result["scores"].items():
            assert score["value"] is score["interval"] is None
            assert torch.isnan(made.callback_metrics[f"val/{result['set']}/{name}"])
    assert module.images_seen == 8


def test_too_few_pictures_are_told_before_training_starts(tmp_path):
    module = remaking()
    module.training_step = lambda *_: pytest.fail("training has started")
    for quality, faces in (
        (ReconstructionQuality(images=9), data()),
        (ReconstructionQuality(), data((0.9, 0.05, 0.05))),
    ):
        with pytest.raises(ValueError, match=r"at least 10 images on either side, but only \d pictures of the"):
            trainer(tmp_path, quality, Run(images=8)).fit(module, faces)


def test_a_run_that_never_tests_needs_no_test_pictures(tmp_path):
    trainer(tmp_path, ReconstructionQuality(), Run(images=8, validate_every=0)).fit(remaking(), data((0.7, 0.3, 0.0)))
    assert [r["set"] for r in results(tmp_path)] == ["reconstruction", "style"]


def test_predictions_need_no_judges(tmp_path):
    quality = ReconstructionQuality(extractors=["no such thing"])
    trainer(tmp_path, quality).predict(remaking(), data(), return_predictions=False)
    assert quality.judges is None
