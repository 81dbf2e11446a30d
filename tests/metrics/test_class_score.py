"""The class score against torch-fidelity's Inception Score and by hand."""

from __future__ import annotations

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from lightning_avatars.metrics.class_score import ClassScore

LOGITS = torch.randn(120, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


def scored(*groups: torch.Tensor, size: int = 50, blocks: int = 10) -> ClassScore:
    count = len(groups[0])
    metric = ClassScore([group.shape[1] for group in groups], count, blocks)
    for index in torch.randperm(count, generator=torch.Generator().manual_seed(1)).split(size):
        metric.update([group[index] for group in groups], index)
    return metric


def inception_score(logits: torch.Tensor, splits: int) -> tuple[float, float]:
    scores = isc_features_to_metric(logits, splits=splits, shuffle=False)
    return scores["inception_score_mean"], scores["inception_score_std"]


def test_one_group_is_the_inception_score():
    value, without = scored(LOGITS.softmax(1)).compute()
    assert float(value) == pytest.approx(inception_score(LOGITS, 1)[0], rel=1e-12)
    block = torch.arange(120) * 10 // 120
    expected = [inception_score(LOGITS[block != b], 1)[0] for b in range(10)]
    assert without.tolist() == pytest.approx(expected, rel=1e-10)


def test_splits_are_those_of_the_published_protocol():
    mean, deviation = scored(LOGITS.softmax(1)).splits()
    assert (float(mean), float(deviation)) == pytest.approx(inception_score(LOGITS, 10), rel=1e-10)


def test_several_groups_are_the_geometric_mean_of_their_scores():
    groups = LOGITS[:, :4].softmax(1), LOGITS[:, 4:].softmax(1)
    value, without = scored(*groups).compute()
    one, two = (scored(group).compute() for group in groups)
    assert float(value) == pytest.approx(float((one[0] * two[0]).sqrt()), rel=1e-12)
    torch.testing.assert_close(without, (one[1] * two[1]).sqrt(), rtol=1e-12, atol=0)


def test_sure_and_varied_answers_score_the_number_of_classes():
    sure = torch.eye(5, dtype=torch.float64).repeat(8, 1)
    assert float(scored(sure).compute()[0]) == pytest.approx(5, rel=1e-12)
    assert float(scored(sure[:1].repeat(40, 1)).compute()[0]) == 1, "sure, but always of the same class"
    assert float(scored(sure * 0 + 0.2).compute()[0]) == pytest.approx(1, rel=1e-12), "varied, but never sure"


def test_fewer_images_than_blocks():
    value, without = scored(LOGITS[:3].softmax(1)).compute()
    assert float(value) == pytest.approx(inception_score(LOGITS[:3], 1)[0], rel=1e-12) and without.shape == (3,)


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match=r"groups of \[7\] classes, expected \[4, 3\]"):
        ClassScore([4, 3], 120).update([LOGITS.softmax(1)], torch.arange(120))
    with pytest.raises(ValueError, match="not all those of 60 images"):
        ClassScore([7], 60).update([LOGITS.softmax(1)], torch.arange(120))
