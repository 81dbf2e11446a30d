"""What every module keeps: its clock, the names of its labels, and rows to draw labels from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.data.base import FaceData
from lightning_avatars.families import base
from lightning_avatars.families.base import FaceModule, GenerativeModule
from tests.conf.tiny import TinyFaces


class Labelled(GenerativeModule):
    """Makes images of one colour, the seed's."""

    def sample(self, seeds, labels=None, truncation_psi=1.0):
        level = seeds.float() / 10 if labels is None else labels[:, 0]
        return level[:, None, None, None].expand(-1, 3, 2, 2)

    def preview(self, batch):
        return {}


class Sorted(TinyFaces):
    """Pictures in the order of their labels: first the red ones, then the blue ones."""

    @property
    def name(self) -> str:
        return "sorted"

    def pictures(self, resolution):
        yield from sorted(super().pictures(resolution), key=lambda picture: picture.labels.tolist(), reverse=True)


def with_rows(rows) -> Labelled:
    module = Labelled()
    module.label_rows = torch.tensor(rows, dtype=torch.float32)
    return module


def set_up(module: FaceModule, data: FaceData, stage: str = "fit") -> None:
    data.prepare_data()
    data.setup(stage)
    trainer = SimpleNamespace(datamodule=data, precision="32-true")
    module.trainer = trainer
    module.setup(stage)


def test_labels_are_drawn_by_seed_alone():
    module = with_rows([[i, -i] for i in range(10)])
    drawn = module.draw_labels(torch.arange(50))
    assert torch.equal(drawn, module.draw_labels(torch.arange(50)))
    for seed in (0, 7, 49):
        assert torch.equal(module.draw_labels(torch.tensor([seed])), drawn[seed : seed + 1])
    assert torch.equal(module.draw_labels(torch.tensor([3, 1])), drawn[[3, 1]])
    module.seed = 5
    assert torch.equal(module.draw_labels(torch.arange(50)), drawn), "runs of other seeds are asked the same"


def test_drawn_labels_cover_the_rows_as_often_as_the_data_has_them():
    module = with_rows([[0.0], [1], [2], [2]])
    counts = torch.bincount(module.draw_labels(torch.arange(4000))[:, 0].long())
    torch.testing.assert_close(counts / 4000, torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=0.03)


def test_a_module_without_labels_says_what_to_do():
    with pytest.raises(ValueError, match="seen no labels to draw from: give labels, or train it on labelled data"):
        Labelled().draw_labels(torch.arange(2))


def test_the_extra_state_survives_a_checkpoint(tmp_path):
    module, other = with_rows([[1, 0], [0, 1]]), Labelled()
    module.images_seen, module.label_names = 12345, ["hair=a", "hair=b"]
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.images_seen == 12345 and other.label_names == ["hair=a", "hair=b"]
    assert torch.equal(other.label_rows, module.label_rows)


def test_the_configuration_goes_into_the_checkpoint():
    module, checkpoint = Labelled(), {}
    module.config = {"model": {"class_path": "x"}}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["config"] == module.config


def test_rows_are_labels_of_training_pictures():
    module, data = Labelled(), FaceData(TinyFaces(), resolution=8, num_workers=0)
    set_up(module, data)
    assert module.label_names == ["colour=red", "colour=blue", "large"]
    assert torch.equal(module.label_rows, torch.from_numpy(data.store.labels[data.store.split("train")]))


def test_few_rows_are_spread_over_a_dataset_that_is_sorted(monkeypatch):
    monkeypatch.setattr(base, "LABEL_ROWS", 12)
    module, data = Labelled(), FaceData(Sorted(), resolution=8, num_workers=0)
    set_up(module, data)
    of_all = torch.from_numpy(data.store.labels[data.store.split("train")]).mean(0)
    assert module.label_rows.shape == (12, 3)
    torch.testing.assert_close(module.label_rows.mean(0), of_all, rtol=0, atol=0.1)
    assert torch.equal(module.label_rows[0], torch.tensor([1.0, 0, 1])), "the first and the last are there"
    assert torch.equal(module.label_rows[-1], torch.tensor([0.0, 1, 0]))


def test_other_stages_leave_the_rows_of_training(monkeypatch):
    module = with_rows([[1.0]])
    set_up(module, FaceData(TinyFaces(), resolution=8, num_workers=0), "test")
    assert module.label_rows.tolist() == [[1.0]] and module.label_names == []


def test_predictions_are_bytes_by_place_and_from_labels_where_conditional():
    module = Labelled()
    batch = {"index": torch.tensor([0, 10]), "labels": torch.tensor([[-1.0], [0.0]])}
    assert module.predict_step(batch, 0)["image"][:, 0, 0, 0].tolist() == [128, 255]
    module.conditional = True
    found = module.predict_step(batch, 0)["image"]
    assert found.dtype == torch.uint8 and found[:, 0, 0, 0].tolist() == [0, 128]
