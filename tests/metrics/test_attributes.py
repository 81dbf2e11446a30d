"""Accuracy by group, counted by hand."""

import pytest
import torch

from lightning_avatars.metrics.attributes import AttributeAccuracy

NAMES = ["hair=none", "hair=curly", "hair=long", "smiling", "eyes=open", "eyes=shut"]
LABELS = torch.tensor(
    [
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 1],
        [0, 0, 1, 0, 0, 1],
    ]
).float()
LOGITS = torch.tensor(
    [
        [2.0, 1.0, -1, 0.5, 3, 2],  # all right
        [0.1, 0.2, 0.0, 0.1, -5, -4],  # hair right
        [-1, -2, -1.5, 0.2, 0, 1],  # hair wrong
        [-1, -2, -0.5, -3, 0, 1],  # all right
    ]
)
EXPECTED = {"hair": 3 / 4, "smiling": 3 / 4, "eyes": 3 / 4}


def found(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def test_accuracy_by_group():
    metric = AttributeAccuracy(NAMES)
    metric.update(LOGITS, LABELS)
    assert found(metric) == EXPECTED


def test_groups_are_judged_apart():
    metric = AttributeAccuracy(NAMES)
    metric.update(LOGITS[1:3], LABELS[1:3])
    assert found(metric) == {"hair": 1 / 2, "smiling": 1 / 2, "eyes": 1 / 2}
    metric = AttributeAccuracy(NAMES)
    metric.update(LOGITS[2:3], LABELS[2:3])
    assert found(metric) == {"hair": 0, "smiling": 1, "eyes": 1}


def test_blocks_and_merged_states_equal_one_batch():
    blocks, other = AttributeAccuracy(NAMES), AttributeAccuracy(NAMES)
    blocks.update(LOGITS[:1], LABELS[:1])
    blocks.update(LOGITS[1:2], LABELS[1:2])
    other.update(LOGITS[2:], LABELS[2:])
    blocks.merge_state(other)
    assert found(blocks) == EXPECTED
    blocks.reset()
    blocks.update(LOGITS[:1], LABELS[:1])
    assert set(found(blocks).values()) == {1.0}


def test_counting_stays_exact():
    metric = AttributeAccuracy(["smiling"])
    metric.right += 2**24
    metric.count += 2**24
    metric.update(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    assert metric.count == 2**24 + 1 == metric.right, "float32 would stop here"


def test_a_group_of_one_value_is_always_right():
    """As in the recogniser's own accuracy: its loss never teaches such a logit anything."""
    metric = AttributeAccuracy(["skin=pale", "smiling"])
    metric.update(torch.tensor([[-3.0, -3.0], [3.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert found(metric) == {"skin": 1.0, "smiling": 1.0}


def test_columns_of_a_group_must_lie_together():
    with pytest.raises(ValueError, match="side by side"):
        AttributeAccuracy(["hair=none", "smiling", "hair=curly"])
