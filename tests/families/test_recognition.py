"""Recognition learns, counts images, and makes images imperfect without depending on the number of processes."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.recognition import SHIFT, Recognition, imperfect, shifted
from lightning_avatars.networks.recognizer import RecognitionNet
from lightning_avatars.schedules import Linear
from lightning_avatars.seeding import Draws
from tests.conf.faults import equal, killed_and_whole, saved, training_state
from tests.conf.training import silent_trainer

NAMES = ["tone=dark", "tone=light", "Red"]


def batches(count, size=16):
    """Images that are dark or light, and red or not."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        light, red = torch.randint(2, (2, size), generator=generator)
        image = torch.randint(0, 60, (size, 3, 16, 16), generator=generator) + 100 * light[:, None, None, None]
        image[:, 0] += 80 * red[:, None, None]
        labels = torch.stack([1 - light, light, red], 1).float()
        made.append({"image": image.to(torch.uint8), "labels": labels})
    return DataLoader(made, batch_size=None)


def module(**options):
    torch.manual_seed(0)
    return Recognition(RecognitionNet(16, 3, NAMES, width=8), **options)


def test_it_learns_and_logs_an_accuracy_per_group(tmp_path):
    recognition = module(optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
    runs = silent_trainer(tmp_path)
    runs.fit(recognition, batches(60), batches(4))
    assert set(runs.callback_metrics) == {"step", "train/loss", "val/accuracy", "val/accuracy/tone", "val/accuracy/Red"}
    assert runs.callback_metrics["val/accuracy"] > 0.95
    assert recognition.images_seen == 960
    (tested,) = silent_trainer(tmp_path).test(recognition, batches(4), verbose=False)
    assert tested["test/accuracy"] == pytest.approx((tested["test/accuracy/tone"] + tested["test/accuracy/Red"]) / 2)


def test_the_clock_survives_a_checkpoint(tmp_path):
    recognition, other = module(), module()
    silent_trainer(tmp_path).fit(recognition, batches(3))
    other.load_state_dict(recognition.state_dict())
    assert other.images_seen == 48


def test_the_learning_rate_follows_images(tmp_path):
    recognition = module(learning_rate=Linear(0.1, 0.0, last=160))
    runs = silent_trainer(tmp_path)
    runs.fit(recognition, batches(6))
    assert runs.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)  # five batches seen before the last


def test_a_recogniser_without_labels_says_so():
    with pytest.raises(ValueError, match="needs labels to learn"):
        Recognition(RecognitionNet(16, 3, []))


def test_other_labels_than_the_data_has_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    data = FaceData(Avatars(20, attributes=["skin"]), resolution=16, batch_size=4)
    with pytest.raises(ValueError, match=r"data's labels are skin=pale.*network\.label_names are tone=dark"):
        silent_trainer(tmp_path).fit(module(), data)


def test_shifts_move_each_image_by_its_own_offset():
    x = torch.arange(2 * 8 * 8.0).view(2, 1, 8, 8)
    assert torch.equal(shifted(x, torch.full((2, 2), SHIFT)), x)
    moved = shifted(x, torch.tensor([[SHIFT + 1, SHIFT], [SHIFT, 0]]))
    assert torch.equal(moved[0, :, :-1], x[0, :, 1:])
    assert torch.equal(moved[1, ..., SHIFT:], x[1, ..., :-SHIFT])


def test_two_halves_of_a_batch_are_made_imperfect_like_the_whole():
    x = torch.rand(8, 3, 16, 16)
    device = torch.device("cpu")
    whole = imperfect(x, Draws(0, 0, 8, 0, 8, device))
    halves = [imperfect(x[i : i + 4], Draws(0, 0, 8, i, i + 4, device)) for i in (0, 4)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, imperfect(x, Draws(0, 8, 8, 0, 8, device)))
    assert (whole - x).abs().mean() < 0.5


def test_two_processes_of_lightnings_own_ddp_that_are_killed_go_on_as_if_they_had_not_been(tmp_path):
    further = ["--data.dataset", "tests.conf.tiny.TinyFaces", "--data.resolution", "16", "--data.batch_size", "8"]
    further += ["--model.network.width", "4", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    further += ["--trainer.logger", "false", "--run.images", "480", "--run.validate_every", "240"]
    arguments = ["fit", "--model", "recognition", *further, "--run.save_every", "40", "--resume", "auto"]
    folders = killed_and_whole(arguments, tmp_path)
    states = [training_state(saved(folder)[-1]) for folder in folders]
    assert equal(*states) and states[0]["state_dict"]["_extra_state"]["images_seen"] == 480
