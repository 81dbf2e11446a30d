"""Avatars of several styles: each a domain, mixed from the first, curated where the artwork is."""

import numpy as np
import pytest

from lightning_avatars.data.avatar_styles import AvatarStyles
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.store import build


def test_each_style_is_a_domain_and_the_first_pictures_are_of_every_one():
    dataset = AvatarStyles({"micah": 4, "avataaars": 2, "lorelei": 3})
    assert dataset.domain_names == ["micah", "avataaars", "lorelei"]
    assert dataset.label_names == ["style=micah", "style=avataaars", "style=lorelei"]
    pictures = list(dataset.pictures(16))
    assert [picture.domain for picture in pictures] == [0, 1, 2, 0, 1, 2, 0, 2, 0]
    assert [picture.name for picture in pictures[:4]] == ["micah-0-0", "avataaars-0-0", "lorelei-0-0", "micah-0-1"]
    assert all(np.flatnonzero(picture.labels).tolist() == [picture.domain] for picture in pictures)
    assert len({picture.name for picture in pictures}) == 9


def test_the_avatars_of_a_style_are_those_that_it_has_alone():
    together = list(AvatarStyles({"avataaars": 4, "micah": 3}, seed=2).pictures(32))
    for domain, (style, count) in enumerate([("avataaars", 4), ("micah", 3)]):
        alone = Avatars(count, style, seed=2).pictures(32)
        among = [picture for picture in together if picture.domain == domain]
        for a, b in zip(alone, among, strict=True):
            assert np.array_equal(a.image, b.image) and a.digest == b.digest


def test_the_curated_avatars_are_in_the_same_splits_as_alone():
    alone, together = build(Avatars(30), 16), build(AvatarStyles({"micah": 10, "avataaars": 30}), 16)
    assert np.array_equal(alone.splits, together.splits[np.flatnonzero(together.domains == 1)])


def test_training_batches_take_turns_between_the_styles():
    data = FaceData(AvatarStyles({"avataaars": 20, "micah": 30}), resolution=16, batch_size=6)
    data.setup("fit")
    assert data.domain_names == ["avataaars", "micah"]
    batch = next(iter(data.train_dataloader()))
    assert batch["domain"].tolist() == [0, 1] * 3
    assert batch["labels"].argmax(1).tolist() == [0, 1] * 3


def test_the_fingerprint_holds_every_choice():
    base = AvatarStyles().fingerprint()
    others = [
        AvatarStyles({"avataaars": 10_000, "micah": 9_000}),
        AvatarStyles({"micah": 10_000, "avataaars": 10_000}),
        AvatarStyles(seed=1),
        AvatarStyles(background="#000000"),
    ]
    assert all(other.fingerprint() != base for other in others)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match=r"styles are \['micah'\]; name at least two"):
        AvatarStyles({"micah": 5})
    with pytest.raises(ValueError, match=r"'avatars' is not among .* avataaars"):
        AvatarStyles({"micah": 5, "avatars": 5})
    with pytest.raises(ValueError, match="count is 0"):
        AvatarStyles({"micah": 5, "avataaars": 0})
    with pytest.raises(ValueError, match="background is 'white'"):
        AvatarStyles(background="white")
