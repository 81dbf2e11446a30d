"""What each region looks like: means over regions, and what is remembered of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lightning_avatars.networks.feature_encoder import FeatureEncoder, region_means, spread


def maps(count, classes, side=8):
    """Random label maps, one-hot."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(classes, (count, side, side), generator=generator)
    return torch.nn.functional.one_hot(numbers, classes).permute(0, 3, 1, 2).float()


def test_means_are_those_of_a_plain_loop():
    torch.manual_seed(0)
    regions, features = maps(2, 3), torch.randn(2, 4, 8, 8)
    regions[1, 0] += regions[1, 2]  # class 2 is absent from the second map
    regions[1, 2] = 0
    means = region_means(features, regions)
    planes = spread(means, regions)
    for n in range(2):
        for k in range(3):
            inside = features[n][:, regions[n, k] == 1]
            expected = inside.mean(1) if inside.numel() else torch.zeros(4)
            torch.testing.assert_close(means[n, k], expected)
            at = planes[n][:, regions[n, k] == 1]
            torch.testing.assert_close(at, expected[:, None].expand_as(at))


def test_mean_and_variance_of_each_class_are_remembered_of_those_that_are_there():
    encoder = FeatureEncoder(3, ["a", "b", "c"], features=2, width=4, halvings=1, momentum=0.25)
    means = torch.tensor([[[1.0, 2], [5, 0], [9, 9]], [[3.0, 2], [7, 7], [9, 9]]])
    present = torch.tensor([[True, True, False], [True, False, False]])
    encoder.remember(means, present)
    assert encoder.mean.tolist() == [[2, 2], [5, 0], [0, 0]]
    assert encoder.variance.tolist() == [[1, 0], [0, 0], [1, 1]]
    for _ in range(3):
        encoder.begin()
        encoder.remember(means, present)
    assert encoder.mean.tolist() == [[2, 2], [5, 0], [0, 0]]
    assert encoder.variance.tolist() == [[1, 0], [0, 0], [1, 1]]
    encoder.begin()
    encoder.remember(means + 4, present)  # the fifth batch counts a quarter: momentum, not a fifth
    assert encoder.mean[0].tolist() == [3, 3]
    assert encoder.variance[0].tolist() == [1 + 0.75 * 0.25 * 16, 0.75 * 0.25 * 16], "within, and between the means"


def test_a_batch_in_pieces_that_is_seen_twice_is_remembered_as_one():
    torch.manual_seed(0)
    whole, parts = (FeatureEncoder(3, ["a", "b", "c"], features=2, width=4, halvings=1) for _ in range(2))
    for _ in range(3):
        means, present = torch.randn(6, 3, 2), torch.rand(6, 3) < 0.5
        whole.begin(), parts.begin()
        whole.remember(means, present)
        for _ in range(2):
            for rows in torch.arange(6).split(2):
                parts.remember(means[rows], present[rows])
    for name in ("mean", "variance", "batches"):
        torch.testing.assert_close(parts.get_buffer(name), whole.get_buffer(name))
    assert whole.batches.max() == 3


def test_evaluation_remembers_nothing_and_draws_what_was_remembered():
    torch.manual_seed(0)
    encoder, regions = FeatureEncoder(3, ["a", "b"], width=4, halvings=1).eval(), maps(3, 2)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder(torch.randn(3, 3, 8, 8), regions)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    encoder.mean.copy_(torch.tensor([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]))
    encoder.variance.fill_(0.04)
    plain = encoder.draw(regions)
    assert torch.equal(plain[0, :, regions[0, 0] == 1][:, 0], encoder.mean[0])
    noisy = encoder.draw(regions, torch.ones(3, 2, 3))
    torch.testing.assert_close(noisy, plain + 0.2)


def test_its_size_is_pix2pixhds():
    """c7s1-16, d32, d64, d128, d256, u128, u64, u32, u16, c7s1-3, save biases that norms take away."""
    widths = [16, 32, 64, 128, 256]
    between = sum(a * b for a, b in pairwise(widths))
    expected = 7 * 7 * 3 * 16 + 2 * 3 * 3 * between + 7 * 7 * 16 * 3 + 3
    assert sum(p.numel() for p in FeatureEncoder(mask_names=["a", "b"]).parameters()) == expected


def test_data_without_masks_are_refused():
    with pytest.raises(ValueError, match="masks"):
        FeatureEncoder(3)
