"""A picture or a row for every picture that was asked about, named by its place in the store."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image

from lightning_avatars.callbacks.predictions import Predictions
from lightning_avatars.data.base import FaceData
from tests.conf.tiny import TinyFaces
from tests.conf.training import game


def write(folder, index, batch_idx=0, rank=0, **prediction):
    trainer = SimpleNamespace(default_root_dir=str(folder), global_rank=rank)
    module = SimpleNamespace(label_names=["colour=red", "colour=blue"])
    batch = {"index": torch.tensor(index)}
    Predictions().write_on_batch_end(trainer, module, prediction, None, batch, batch_idx, 0)
    return folder / "predictions"


def rows(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_images_are_named_by_their_place_and_kept_exactly(tmp_path):
    colour = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    folder = write(tmp_path, [7, 123], image=colour)
    assert sorted(path.name for path in folder.iterdir()) == ["00000007.png", "00000123.png"]
    with Image.open(folder / "00000123.png") as picture:
        assert np.array_equal(np.array(picture), colour[1].permute(1, 2, 0))
    write(tmp_path, [8], image=colour[:1, :1])
    with Image.open(folder / "00000008.png") as picture:
        assert picture.mode == "L" and np.array_equal(np.array(picture), colour[0, 0])


def test_probabilities_of_all_batches_make_one_table(tmp_path):
    write(tmp_path, [4, 9], labels=torch.tensor([[0.25, 0.75], [1, 0]]))
    folder = write(tmp_path, [11], batch_idx=1, labels=torch.tensor([[0.5, 0.5]]))
    expected = [
        ["index", "colour=red", "colour=blue"],
        ["4", "0.25", "0.75"],
        ["9", "1.0", "0.0"],
        ["11", "0.5", "0.5"],
    ]
    assert [path.name for path in folder.iterdir()] == ["labels_0.csv"] and rows(folder / "labels_0.csv") == expected
    write(tmp_path, [5], labels=torch.tensor([[0.5, 0.5]]))  # another run begins the table anew
    assert [row[0] for row in rows(folder / "labels_0.csv")] == ["index", "5"]


def test_every_process_has_a_table_of_its_own(tmp_path):
    for rank in range(2):
        folder = write(tmp_path, [rank], rank=rank, labels=torch.tensor([[0.5, 0.5]]))
    assert [row[0] for row in rows(folder / "labels_1.csv")] == ["index", "1"]
    assert [row[0] for row in rows(folder / "labels_0.csv")] == ["index", "0"]


def test_every_test_picture_is_answered_once_by_the_seed_of_its_place(tmp_path):
    data, module = FaceData(TinyFaces(), resolution=8, batch_size=4, num_workers=0), game()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Predictions()],
        default_root_dir=tmp_path, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.predict(module, data, return_predictions=False)
    places = data.store.split("test").tolist()
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [f"{i:08d}.png" for i in places]
    with Image.open(tmp_path / "predictions" / f"{places[-1]:08d}.png") as picture:
        shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(shown, module.sample(torch.tensor(places[-1:]))[0], rtol=0, atol=1 / 127)
