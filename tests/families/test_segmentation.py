"""Segmentation learns, counts images, is the same run on any number of processes, and refuses maps it does not know."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.segmentation import Segmentation
from lightning_avatars.metrics.extractors.segmenter import load_segmenter
from lightning_avatars.networks.segmenter import SegmentationNet
from lightning_avatars.schedules import Linear
from tests.conf.faults import equal, killed_and_whole, saved, start, statuses, training_state
from tests.conf.tiny import TinyFaces
from tests.conf.tiny_maps import PARTS, TinyMaps, discs
from tests.conf.training import silent_trainer


def batches(count, size=16):
    """Discs and their maps."""
    drawn = [discs(i, 16) for i in range(count * size)]
    image, mask = (torch.from_numpy(np.stack(some)) for some in zip(*drawn, strict=True))
    made = [{"image": i, "mask": m} for i, m in zip(image.split(size), mask.split(size), strict=True)]
    return DataLoader(made, batch_size=None)


def module(names=PARTS, **options):
    torch.manual_seed(0)
    return Segmentation(SegmentationNet(16, 3, names, width=4, halvings=2), **options)


def test_it_learns_and_logs_accuracy_and_iou_of_each_part(tmp_path):
    segmentation = module(learning_rate=Linear(0.01, 0.0, last=960))
    runs = silent_trainer(tmp_path)
    runs.fit(segmentation, batches(60), batches(4))
    ious = {f"val/iou/{name}" for name in PARTS}
    assert set(runs.callback_metrics) == {"step", "train/loss", "val/accuracy", "val/miou", *ious}
    assert (
        runs.callback_metrics["val/accuracy"] > 0.92 and runs.callback_metrics["val/miou"] > 0.8
    )  # from 0.66 and 0.22
    assert segmentation.images_seen == 960
    (tested,) = silent_trainer(tmp_path).test(segmentation, batches(4), verbose=False)
    assert tested["test/miou"] == pytest.approx(np.mean([tested[f"test/iou/{name}"] for name in PARTS]))
    assert tested["test/miou"] == pytest.approx(float(runs.callback_metrics["val/miou"])), "nothing is left of before"


def test_it_leaves_weights_that_name_the_same_pixels(tmp_path):
    segmentation = module(optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    silent_trainer(tmp_path).fit(segmentation, batches(20))
    segmenter = load_segmenter(tmp_path / "segmenter.safetensors", PARTS)
    (batch,) = batches(1)
    assert (segmenter(batch["image"]) != segmentation.eval().label_maps(batch)).float().mean() < 0.005


def test_the_clock_survives_a_checkpoint_and_scores_are_not_part_of_it(tmp_path):
    segmentation, other = module(), module()
    silent_trainer(tmp_path).fit(segmentation, batches(3), batches(1))
    state = segmentation.state_dict()
    other.load_state_dict(state)
    assert other.images_seen == 48 and not any(name.startswith("scores") for name in state)


def test_scoring_changes_no_weight(tmp_path):
    states = []
    for further in ([], [batches(2)]):
        one = module()
        silent_trainer(tmp_path, val_check_interval=1).fit(one, batches(4), *further)
        states.append(one.state_dict())
    assert equal(*states)


def test_the_learning_rate_follows_images(tmp_path):
    segmentation = module(learning_rate=Linear(0.1, 0.0, last=160))
    runs = silent_trainer(tmp_path)
    runs.fit(segmentation, batches(6))
    assert runs.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)  # five batches seen before the last


@pytest.mark.parametrize("names", [[], ["face"]])
def test_a_segmenter_without_parts_says_so(names):
    with pytest.raises(ValueError, match="needs label maps of two or more parts"):
        module(names)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))


def test_other_parts_than_the_data_has_are_an_error_before_training(tmp_path, cache):
    data = FaceData(TinyMaps(), resolution=16, batch_size=4)
    with pytest.raises(ValueError, match=r"data's parts are background, dark, light, but .* are background, hat"):
        silent_trainer(tmp_path).fit(module(["background", "hat"]), data)
    with pytest.raises(ValueError, match="make them the same"):
        silent_trainer(tmp_path).test(module([*reversed(PARTS)]), data)


def test_data_without_label_maps_are_an_error_before_training(tmp_path, cache, capsys, monkeypatch):
    data = FaceData(TinyFaces(), resolution=16, batch_size=4)
    with pytest.raises(ValueError, match=r"data's parts are none: they have no label maps"):
        silent_trainer(tmp_path).fit(module(), data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--model", "segmentation", "--data.dataset", "tests.conf.tiny.TinyFaces"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "needs label maps of two or more parts" in said and "Traceback" not in said


FIT = ["fit", "--model", "segmentation", "--data.dataset", "tests.conf.tiny_maps.TinyMaps", "--data.resolution", "16"]
FIT += ["--data.batch_size", "8", "--data.horizontal_flip", "true", "--model.network.width", "4"]
FIT += ["--model.network.halvings", "2", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]


def scores(folder):
    (path,) = folder.glob("runs/*/*/results.json")
    return [(r["stage"], r["images_seen"], r["set"], r["scores"]) for r in json.loads(path.read_text())["results"]]


def test_the_command_line_trains_scores_writes_and_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*FIT, "--run.images", "64", "--run.validate_every", "32"])
    assert [found[:3] for found in scores(tmp_path)] == [("val", 32, "segmentation"), ("val", 64, "segmentation")]
    assert set(scores(tmp_path)[0][3]) == {"accuracy", "miou", *(f"iou/{name}" for name in PARTS)}
    (path,) = tmp_path.glob("runs/*/*/segmenter.safetensors")
    segmenter = load_segmenter(path, PARTS)
    assert (segmenter.resolution, segmenter.network.channels) == (16, 3)
    (checkpoint,) = saved(tmp_path)[-1:]
    main(["predict", *FIT[1:], "--ckpt_path", str(checkpoint)])
    written = sorted(tmp_path.glob("**/predictions/*.png"))
    assert len(written) == 19  # of the test split
    assert np.asarray(Image.open(written[0])).shape == (16, 16) and np.asarray(Image.open(written[0])).max() < 3


def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(tmp_path):
    pair = [*FIT, "--run.images", "240", "--run.validate_every", "240", "--run.save_every", "40"]
    pair += ["--trainer.devices", "2", "--resume", "auto"]
    killed, whole = killed_and_whole(pair, tmp_path)
    states = [training_state(saved(folder)[-1]) for folder in (killed, whole)]
    assert equal(*states) and states[0]["state_dict"]["_extra_state"]["images_seen"] == 240
    assert scores(killed)[-1] == scores(whole)[-1]


def test_two_processes_train_and_score_as_one(tmp_path):
    further = [*FIT, "--run.images", "80", "--run.validate_every", "80"]
    further += ["--trainer.precision", "64-true"]  # in float32 a ReLU is turned off by rounding now and then
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert statuses(start(further, one)) == [0]
    assert statuses(start([*further, "--trainer.devices", "2"], two, 2)) == [0, 0]
    single, pair = (training_state(saved(folder)[-1])["state_dict"] for folder in (one, two))
    for name, tensor in single.items():
        if name != "_extra_state":
            torch.testing.assert_close(pair[name], tensor, rtol=1e-7, atol=1e-7)
    assert scores(one) == scores(two)
