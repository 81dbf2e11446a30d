"""Agreement of label maps against counting pixel by pixel, in any batches, and on two processes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_avatars.metrics.segmentation import SegmentationScores

NAMES = ["background", "skin", "hair", "hat"]


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Label maps of 12 pictures, in which no hat is true, though some pixels are taken for one."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(3, (12, 1, 5, 7), generator=generator, dtype=torch.uint8)
    found = torch.randint(4, true.shape, generator=generator, dtype=torch.uint8)
    agree = torch.rand(true.shape, generator=generator) < 0.6
    return torch.where(agree, true, found), true


def counted(found: list[int], true: list[int]) -> dict[str, float]:
    """The scores by sets of pixels."""
    scores = {}
    for number, name in enumerate(NAMES):
        mine = {i for i, part in enumerate(found) if part == number}
        theirs = {i for i, part in enumerate(true) if part == number}
        if theirs:
            scores[f"iou/{name}"] = len(mine & theirs) / len(mine | theirs)
    right = sum(a == b for a, b in zip(found, true, strict=True))
    return {"accuracy": right / len(true), "miou": sum(scores.values()) / len(scores), **scores}


def scored(found: torch.Tensor, true: torch.Tensor, size: int) -> dict[str, float]:
    metric = SegmentationScores(NAMES)
    for some, others in zip(found.split(size), true.split(size), strict=True):
        metric.update(some, others)
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_scores_are_those_of_counting_pixels_in_batches_of_any_size(size):
    found, true = maps()
    expected = counted(found.flatten().tolist(), true.flatten().tolist())
    assert expected.keys() == {"accuracy", "miou", "iou/background", "iou/skin", "iou/hair"}
    assert scored(found, true, size) == pytest.approx(expected, abs=1e-15)


def test_a_case_by_hand():
    true = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
    found = torch.tensor([[[0, 0, 1, 2], [0, 3, 2, 2]]])
    assert scored(found, true, 1) == pytest.approx(
        {
            "accuracy": 6 / 8, "iou/background": 3 / 4, "iou/skin": 1 / 2, "iou/hair": 2 / 3,
            "miou": (3 / 4 + 1 / 2 + 2 / 3) / 3,
        }
    )  # fmt: skip


def test_equal_maps_score_one_and_disjoint_ones_nothing():
    _, true = maps()
    assert set(scored(true, true, 12).values()) == {1.0}
    assert set(scored((true + 1) % 3, true, 12).values()) == {0.0}


def test_maps_of_two_shapes_are_named():
    with pytest.raises(ValueError, match=r"must have one shape, got \(1, 1, 4, 4\) and \(1, 4, 4\)"):
        SegmentationScores(NAMES).update(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))


def test_a_metric_adds_nothing_to_the_state_of_its_module():
    assert not SegmentationScores(NAMES).state_dict()


def work(rank: int, folder: str, results: dict[int, dict[str, float]]) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found, true = (x.split([9, 3])[rank] for x in maps())
    results[rank] = scored(found, true, 4)
    dist.destroy_process_group()


def test_two_processes_equal_one_to_the_last_bit(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, (str(tmp_path), results), nprocs=2)
        assert results[0] == results[1] == scored(*maps(), 12)
