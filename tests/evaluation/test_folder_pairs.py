"""Scores of pictures of the same name in two folders."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.data.pictures import FolderPictures
from lightning_avatars.evaluation.folder_pairs import score_folder_pairs
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.images import save_sheet
from lightning_avatars.metrics import pairwise
from tests.evaluation.arrays import Arrays, Quadrants, noise, silent


def folder(path, images) -> FolderPictures:
    for i, image in enumerate(images):
        save_sheet(image[None], 1, path / f"{i}.png")
    return FolderPictures(path)


def test_pictures_of_the_same_name_in_two_folders_are_pairs(tmp_path):
    a, b = noise(4, 1, 30), noise(5, 2, 30)
    made, real = folder(tmp_path / "made", a), folder(tmp_path / "real", b)
    scores = score_folder_pairs(made, real, Judges(identity=Quadrants(name="faces")), silent)
    assert scores.result.scores.keys() == {"l1_4", "mse_4", "psnr_4", "ssim_4", "identity_faces_4"}
    expected = torch.stack(
        [pairwise.mse(*(folder.one(f"{i}.png")[None] for folder in (made, real)))[0] for i in range(4)]
    )
    torch.testing.assert_close(scores.values["mse"], expected)
    assert scores.result.scores["mse_4"].value == pytest.approx(float(expected.mean()))
    assert torch.equal(scores.look(2)[0], made.one("2.png")) and scores.result.set == "pairs"


@pytest.mark.parametrize("sides", [(200, 40), (40, 200), (40, 12), (12, 40)])
def test_pairs_of_different_sizes_have_the_scores_that_all_of_them_can_have(tmp_path, sides):
    a, b = ([noise(1, seed, side)[0] for side in sides] for seed in (1, 2))
    scores = score_folder_pairs(folder(tmp_path / "made", a), folder(tmp_path / "real", b), Judges(), silent)
    assert scores.result.scores.keys() == {"l1_2", "mse_2", "psnr_2", "ssim_2"}


def test_pairs_of_two_sizes_and_folders_without_a_common_name_are_refused(tmp_path):
    made, real = folder(tmp_path / "made", noise(2, 1, 20)), folder(tmp_path / "real", noise(2, 2, 24))
    with pytest.raises(ValueError, match=r"0\.png is 20 x 20 and 24 x 24 pixels"):
        score_folder_pairs(made, real, Judges(), silent)
    (tmp_path / "other").mkdir()
    (tmp_path / "made/0.png").rename(tmp_path / "other/x.png")
    with pytest.raises(ValueError, match=r"no picture of .*made has the name of one in .*other: '1\.png' and 'x\.png'"):
        score_folder_pairs(FolderPictures(tmp_path / "made"), FolderPictures(tmp_path / "other"), Judges(), silent)
    with pytest.raises(ValueError, match="two folders"):
        score_folder_pairs(real, Arrays(noise(2)), Judges(), silent)
