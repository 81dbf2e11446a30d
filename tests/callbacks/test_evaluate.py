"""Scores that do not depend on blocks, and that say what they were made of."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import to_float
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, game


def scored(folder, quality, **arguments):
    module = game(**arguments)
    trainer = fit(module, folder, callbacks=[quality, Run(images=24, validate_every=0)])
    return trainer, json.loads((folder / "results.json").read_text())["results"][0]


def test_the_score_does_not_depend_on_the_blocks(tmp_path):
    made = [scored(tmp_path / str(block), SampleQuality(images=21, block=block))[1] for block in (4, 50)]
    for name, score in made[0]["scores"].items():
        assert score["value"] == pytest.approx(made[1]["scores"][name]["value"], rel=1e-4, abs=1e-4), name
    assert made[0]["passport"]["images"] == 21


def test_scores_are_logged_with_their_floor(tmp_path):
    trainer, result = scored(tmp_path, SampleQuality(images=20))
    scores, logged = result["scores"], trainer.callback_metrics
    kinds = ("fd", "kd", "precision", "recall", "density", "coverage", "class_score")
    assert scores.keys() == {f"{kind}_avatarnet_20" for kind in kinds} | {"copied_20"}
    for name, score in scores.items():
        assert score.keys() == {"value", "interval", "floor", "extractor"}
        assert float(logged[f"val/{name}"]) == pytest.approx(score["value"], rel=1e-6)
        if score["floor"] is not None:
            assert float(logged[f"val/{name}_floor"]) == pytest.approx(score["floor"], rel=1e-6)
    assert scores["fd_avatarnet_20"]["floor"] < scores["fd_avatarnet_20"]["value"]
    assert scores["copied_20"]["floor"] is None and "val/copied_20_floor" not in logged
    assert (result["stage"], result["set"], result["images_seen"]) == ("val", "samples", 24)
    assert result["seconds"] > 0 and result["training"]["images_per_second"] > 0


def test_attributes_are_judged_only_by_a_recogniser_that_knows_them(tmp_path):
    _, result = scored(tmp_path, SampleQuality(images=20), conditional=True)
    assert result["accuracy"] == {} and "accuracy_20" not in result["scores"]


def test_a_generator_that_diverged_scores_nan_and_the_run_goes_on(tmp_path):
    module = game()
    with torch.no_grad():
        module.generator.image.weight.fill_(float("nan"))
    run = Run(images=16, validate_every=8)
    with pytest.warns(UserWarning, match="samples are not finite"):
        trainer = fit(module, tmp_path, callbacks=[SampleQuality(images=20), run])
    assert module.images_seen == 16
    first, second = json.loads((tmp_path / "results.json").read_text())["results"]
    assert (first["images_seen"], second["images_seen"]) == (8, 16)
    for name, score in second["scores"].items():
        assert score["value"] is score["interval"] is None, name
        assert torch.isnan(trainer.callback_metrics[f"val/{name}"]), name
    assert second["scores"]["fd_avatarnet_20"]["floor"] > 0


def seen(folder, stage="val"):
    """Images seen when samples were scored."""
    results = json.loads((folder / "results.json").read_text())["results"]
    return [r["images_seen"] for r in results if (r["stage"], r["set"]) == (stage, "samples")]


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0, [8, 16, 24, 32, 40]), (8, [8, 16, 24, 32, 40]), (16, [8, 16, 32, 40]), (24, [8, 24, 40]), (1000, [8, 40])],
)
def test_every_leaves_validations_out_but_not_the_first_and_the_last(tmp_path, every, expected):
    quality = SampleQuality(images=20, every=every)
    fit(game(), tmp_path, callbacks=[quality, Run(images=40, validate_every=8)])
    assert seen(tmp_path) == expected


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_outside_of_fit_every_validation_and_test_is_scored(tmp_path, stage):
    module, data = game(), FaceData(TinyFaces(), resolution=8, batch_size=8)
    module.images_seen = 8
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[SampleQuality(images=20, every=1000)], use_distributed_sampler=False,
    )  # fmt: skip
    getattr(trainer, stage)(module, data, verbose=False)
    name = "val" if stage == "validate" else "test"
    assert seen(tmp_path, name) == [8] and f"{name}/fd_avatarnet_20" in trainer.callback_metrics


def test_sanity_checking_scores_nothing(tmp_path):
    calls = []

    class Counted(SampleQuality):
        def evaluate(self, trainer, module, stage):
            calls.append(trainer.sanity_checking)
            super().evaluate(trainer, module, stage)

    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
        default_root_dir=tmp_path, callbacks=[Counted(images=20), Run(images=8, validate_every=0)],
        use_distributed_sampler=False, check_val_every_n_epoch=None, val_check_interval=1_000_000,
        num_sanity_val_steps=2,
    )  # fmt: skip
    trainer.fit(game(), FaceData(TinyFaces(), resolution=8, batch_size=8))
    assert calls == [True, False] and seen(tmp_path) == [8]


def test_the_best_checkpoint_is_chosen_by_a_score(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", "{step}", monitor="val/fd_avatarnet_20", mode="min")
    fit(game(), tmp_path, callbacks=[SampleQuality(images=20), Run(images=40, validate_every=8), best])
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    least = min(r["scores"]["fd_avatarnet_20"]["value"] for r in results)
    assert float(best.best_model_score) == pytest.approx(least, rel=1e-6)
    kept = torch.load(best.best_model_path, weights_only=False)["state_dict"]["_extra_state"]["images_seen"]
    assert kept == next(r["images_seen"] for r in results if r["scores"]["fd_avatarnet_20"]["value"] == least)


def test_a_score_can_be_monitored_where_not_every_validation_is_scored(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", "{step}", monitor="val/fd_avatarnet_20", mode="min")
    quality = SampleQuality(images=20, every=16)
    fit(game(), tmp_path, callbacks=[quality, Run(images=40, validate_every=8), best])
    assert seen(tmp_path) == [8, 16, 32, 40] and best.best_model_path


def test_a_run_that_does_not_get_better_can_be_stopped_by_a_score(tmp_path):
    module = game(generator_optimizer=lambda p: torch.optim.SGD(p, 0.0), average_half_life=None)
    stop = EarlyStopping("val/fd_avatarnet_20", patience=2)
    fit(module, tmp_path, callbacks=[SampleQuality(images=20), Run(images=80, validate_every=8), stop])
    assert module.images_seen == 24


@pytest.mark.parametrize("kind", ["plain", "conditional_batch_norm"])
def test_a_run_with_scores_and_one_without_end_with_the_same_weights(tmp_path, kind):
    found = []
    for enabled in (True, False):
        module = game() if kind == "plain" else game(conditional=True, normalized=True)
        callbacks = [SampleQuality(images=20, block=8, enabled=enabled), Run(images=48, validate_every=8)]
        fit(module, tmp_path / str(enabled), callbacks=callbacks)
        state = {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}
        found.append((state, module.optimizers()[0].optimizer.state_dict()["state"], torch.get_rng_state()))
    (weights, optimizer, numbers), (others, other_optimizer, other_numbers) = found
    assert len(seen(tmp_path / "True")) == 6 and not (tmp_path / "False/results.json").exists()
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    for one, other in zip(optimizer.values(), other_optimizer.values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(numbers, other_numbers)


@pytest.mark.parametrize("which", ["samples", "reference"])
def test_too_few_images_are_told_before_training_starts(tmp_path, which):
    module = game()
    module.training_step = lambda *_: pytest.fail("training has started")
    dataset = TinyFaces(96)
    quality = SampleQuality(images=9)
    if which == "reference":
        dataset.split, quality = (0.85, 0.09, 0.06), SampleQuality(images=20, reference="val")
        data = FaceData(dataset, resolution=8, batch_size=8)
        data.prepare_data()
        data.setup("fit")
        assert data.store.counts()["val"] < 10
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, callbacks=[quality, Run(images=8)])
    with pytest.raises(ValueError, match=r"scores need at least 10 images on either side, but only \d "):
        trainer.fit(module, FaceData(dataset, resolution=8, batch_size=8))


@pytest.mark.parametrize("options", [{"every": -1}, {"block": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=r"quality\.every must be at least 0 and quality\.block at least 1"):
        SampleQuality(**options)


class Mirror(GenerativeModule):
    """Shows the real picture that has the labels, or the one ``off`` places further in the store."""

    conditional = True

    def __init__(self, data: FaceData, off: int = 0) -> None:
        super().__init__()
        data.prepare_data()
        data.setup("fit")
        self.store, self.off = data.store, off
        train = data.store.split("train")
        self.label_names, self.label_rows = data.label_names, torch.from_numpy(data.store.labels[train])

    def sample(self, seeds, labels=None, truncation_psi=1.0):
        same = (torch.from_numpy(self.store.labels.copy())[None] == labels.cpu()[:, None]).all(2)
        place = (same.int().argmax(1) + self.off) % len(self.store)
        return to_float(torch.from_numpy(self.store.read(place.numpy())))

    def preview(self, batch):
        return {}

    def validation_step(self, batch, batch_idx):
        pass


def mirrored(folder, off: int = 0) -> dict:
    """Score a Mirror of 300 avatars."""
    data = FaceData(Avatars(300, split=(0.2, 0.3, 0.5)), resolution=32, batch_size=50, num_workers=0)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[SampleQuality(images=200)],
    )  # fmt: skip
    trainer.validate(Mirror(data, off), data, verbose=False)
    (result,) = json.loads((folder / "results.json").read_text())["results"]
    assert float(trainer.callback_metrics["val/accuracy_200"]) == pytest.approx(
        result["scores"]["accuracy_200"]["value"]
    )
    return result


def test_a_generator_that_obeys_its_labels_has_them_all_recognised(tmp_path):
    obeyed, ignored = mirrored(tmp_path / "obeyed"), mirrored(tmp_path / "ignored", off=1)
    assert obeyed["accuracy"].keys() == {name.partition("=")[0] for name in Avatars().label_names}
    share = obeyed["scores"]["accuracy_200"]["value"]
    assert share == pytest.approx(sum(obeyed["accuracy"].values()) / 10) and share > 0.9
    assert min(obeyed["accuracy"].values()) > 0.75
    assert ignored["scores"]["accuracy_200"]["value"] < 0.5
    assert obeyed["passport"]["labels"] == "all pictures" and obeyed["passport"]["weights"] == "last"
    for result in (obeyed, ignored):  # both show real pictures
        assert result["scores"]["fd_avatarnet_200"]["value"] < result["scores"]["fd_avatarnet_200"]["floor"]


def test_switched_off_it_writes_nothing(tmp_path):
    fit(game(), tmp_path, callbacks=[SampleQuality(enabled=False), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_extractor_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="avatarnet"):
        scored(tmp_path, SampleQuality(images=20, extractors=["avatarnt"]))
