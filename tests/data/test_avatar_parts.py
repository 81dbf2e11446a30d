"""Avatars with their parts: the avatars are those without, and all that is beside them is kept with them."""

import numpy as np
import pytest

from lightning_avatars.data import avatars as module
from lightning_avatars.data.artwork_parts import PARTS
from lightning_avatars.data.avatar_parts import AvatarParts
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.store import build


def test_avatars_labels_and_digests_are_those_of_the_same_seed_without_parts():
    dataset = AvatarParts(6, seed=3)
    assert dataset.label_names == Avatars().label_names
    for plain, parts in zip(Avatars(6, seed=3).pictures(32), dataset.pictures(32), strict=True):
        assert (plain.name, plain.digest) == (parts.name, parts.digest)
        assert np.array_equal(plain.image, parts.image) and np.array_equal(plain.labels, parts.labels)
        assert parts.source.shape == (3, 32, 32) and parts.mask.shape == (1, 32, 32)


def test_a_palette_is_nearest_to_its_own_avatar():
    pictures = list(AvatarParts(30).pictures(64))
    error = np.array([[np.square(a.image - b.source.astype(float)).mean() for b in pictures] for a in pictures])
    decibels = 10 * np.log10(255**2 / error)
    assert (decibels.argmax(0) == np.arange(len(pictures))).all()
    assert decibels.diagonal().min() > 12, "white rims and shirts beside black ones are the worst"
    assert decibels.diagonal().mean() == pytest.approx(24.5, abs=1.5)


def test_several_processes_draw_the_same_in_the_same_order(monkeypatch):
    alone = list(AvatarParts(9).pictures(16))
    monkeypatch.setattr(module, "FEW", 2)
    for a, b in zip(alone, AvatarParts(9).pictures(16), strict=True):
        assert a.name == b.name and np.array_equal(a.mask, b.mask) and np.array_equal(a.source, b.source)


def test_a_split_is_the_same_people_with_parts_and_without():
    plain, parts = build(Avatars(40), 16), build(AvatarParts(40), 16)
    assert np.array_equal(plain.splits, parts.splits)


def test_batches_have_pictures_palettes_and_maps():
    data = FaceData(AvatarParts(40, attributes=["skin"]), resolution=16, batch_size=4)
    data.setup("fit")
    assert (data.source_channels, data.mask_names, data.domain_names) == (3, PARTS, [])
    batch = next(iter(data.val_dataloader()))
    pictures = list(data.dataset.pictures(16))
    for row, place in enumerate(batch["index"].tolist()):
        assert np.array_equal(batch["image"][row], pictures[place].image)
        assert np.array_equal(batch["source"][row], pictures[place].source)
        assert np.array_equal(batch["mask"][row], pictures[place].mask)


def test_the_fingerprint_holds_every_choice():
    base = AvatarParts().fingerprint()
    others = [AvatarParts(5), AvatarParts(seed=1), AvatarParts(background="#000000"), AvatarParts(attributes=["hair"])]
    assert all(other.fingerprint() != base for other in [*others, Avatars()])


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="count is 0"):
        AvatarParts(0)
    with pytest.raises(ValueError, match=r"attributes \['beard'\].*facial_hair"):
        AvatarParts(attributes=["beard"])
