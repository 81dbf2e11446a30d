"""Scores that do not depend on blocks, and that say what they were made of."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import to_float
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
    data = FaceData(Avatars(300), resolution=32, batch_size=50, num_workers=0)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[SampleQuality(images=200)],
    )  # fmt: skip
    trainer.validate(Mirror(data, off), data, verbose=False)
    (result,) = json.loads((folder / "results.json").read_text())["results"]
    assert float(trainer.callback_metrics["val/accuracy_200"]) == pytest.approx(result["scores"]["accuracy_200"])
    return result


def test_a_generator_that_obeys_its_labels_has_them_all_recognised(tmp_path):
    obeyed, ignored = mirrored(tmp_path / "obeyed"), mirrored(tmp_path / "ignored", off=1)
    assert obeyed["accuracy"].keys() == {name.partition("=")[0] for name in Avatars().label_names}
    assert obeyed["scores"]["accuracy_200"] == pytest.approx(sum(obeyed["accuracy"].values()) / 10)
    assert obeyed["scores"]["accuracy_200"] > 0.9
    assert min(obeyed["accuracy"].values()) > 0.75
    assert ignored["scores"]["accuracy_200"] < 0.5
    assert obeyed["passport"]["labels"] == "training data" and obeyed["passport"]["weights"] == "last"
    for result in (obeyed, ignored):  # both show real pictures
        assert result["scores"]["fd_avatarnet_200"] < result["floor"]["fd_avatarnet_200"]


def test_switched_off_it_writes_nothing(tmp_path):
    fit(game(), tmp_path, callbacks=[SampleQuality(enabled=False), Run(images=8, validate_every=0)])
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_extractor_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="avatarnet"):
        scored(tmp_path, SampleQuality(images=20, extractor="avatarnt"))
