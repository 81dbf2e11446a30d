"""Losses and hits per group of labels, against closed forms."""

import math

import torch

from lightning_avatars.objectives.recognition import correct, label_losses

NAMES = ["hair=short", "hair=curly", "hair=long", "Smiling"]
LABELS = torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 0]])


def test_logits_of_zero_cost_the_logarithm_of_the_number_of_values():
    losses = label_losses(torch.zeros(2, 4), LABELS, NAMES)
    assert set(losses) == {"hair", "Smiling"}
    assert torch.isclose(losses["hair"], torch.tensor(math.log(3)))
    assert torch.isclose(losses["Smiling"], torch.tensor(math.log(2)))


def test_the_likeliest_value_counts():
    logits = torch.tensor([[0.0, 2, 1, -1], [3, 0, 0, -1]])
    hits = correct(logits, LABELS, NAMES)
    assert hits["hair"].tolist() == [True, True]
    assert hits["Smiling"].tolist() == [False, True]
