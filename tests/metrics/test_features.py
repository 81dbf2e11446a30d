"""A bank of features filled in any order."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.metrics.features import FeatureBank

FEATURES = torch.arange(12.0).reshape(6, 2)


def bank(*parts: list[int]) -> FeatureBank:
    made = FeatureBank(6, 2)
    for part in parts:
        made.update(torch.tensor(part), FEATURES[part])
    return made


def test_features_stand_where_their_images_do():
    assert torch.equal(bank([4, 0], [5], [3, 1, 2]).compute(), FEATURES)


def test_two_banks_merge():
    whole = bank([4, 0])
    whole.merge_state(bank([5, 3, 1, 2]))
    assert torch.equal(whole.compute(), FEATURES)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(("parts", "message"), [
    ([], "of 6 images, 6 have no features"),
    ([[0, 1, 2, 3]], "2 have no features and 0"),
    ([[0, 1, 2, 3, 4, 5], [2]], "0 have no features and 1 have been described more than once"),
])  # fmt: skip
def test_every_image_must_be_described_once(parts, message):
    with pytest.raises(ValueError, match=message):
        bank(*parts).compute()


@pytest.mark.parametrize("index", [[-1, 0], [0, 6]])
def test_an_image_of_another_set_is_refused(index):
    with pytest.raises(ValueError, match=r"not all those of 6 images \(0 to 5\)"):
        FeatureBank(6, 2).update(torch.tensor(index), FEATURES[:2])


def test_numbers_of_another_kind_are_kept_as_they_are():
    exact = FeatureBank(1, 1, torch.float64)
    exact.update(torch.tensor([0]), torch.tensor([[1 / 3]], dtype=torch.float64))
    assert exact.compute().dtype == torch.float64 and float(exact.compute()) == 1 / 3
