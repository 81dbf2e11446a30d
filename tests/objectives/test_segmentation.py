"""The segmenter's loss against a loop over pixels, and its parts' shares."""

import math

import pytest
import torch

from lightning_avatars.objectives.segmentation import balanced_cross_entropy, count_parts


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.double)
    return logits, torch.randint(3, (3, 1, 5, 6), generator=generator, dtype=torch.uint8)  # the last part never occurs


def test_it_is_a_mean_over_pixels_weighted_by_the_root_of_how_rare_their_parts_are():
    logits, mask = case()
    total, weight = 0.0, 0.0
    for i in range(3):
        for y in range(5):
            for x in range(6):
                part = int(mask[i, 0, y, x])
                rare = 1 / math.sqrt(int((mask == part).sum()))
                total += rare * (math.log(sum(math.exp(v) for v in logits[i, :, y, x])) - float(logits[i, part, y, x]))
                weight += rare
    assert float(balanced_cross_entropy(logits, mask, count_parts(mask, 4))) == pytest.approx(total / weight, abs=1e-12)


def test_the_losses_of_two_halves_add_up_to_the_whole_with_the_counts_of_both():
    logits, mask = case()
    counts = count_parts(mask, 4)
    assert counts.tolist() == [int((mask == part).sum()) for part in range(4)] and counts[3] == 0
    parts = [balanced_cross_entropy(some, m, counts) for some, m in zip(logits.split(2), mask.split(2), strict=True)]
    torch.testing.assert_close(sum(parts), balanced_cross_entropy(logits, mask, counts))


def test_logits_that_say_nothing_cost_the_logarithm_of_the_number_of_parts():
    _, mask = case()
    zeros = torch.zeros(3, 4, 5, 6)
    assert float(balanced_cross_entropy(zeros, mask, count_parts(mask, 4))) == pytest.approx(math.log(4))
