"""Expressions: only the face's moving parts change, labels say what is drawn, and a person stays in one split."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lightning_avatars.data.artwork_parts import covered
from lightning_avatars.data.avataaars import AVATAAARS
from lightning_avatars.data.avatar_expressions import EXPRESSIONS, AvatarExpressions
from lightning_avatars.data.avatars import Avatars, choose
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.store import build
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.objectives.recognition import correct

COMPONENTS = {"eyes": "eyes", "eyebrows": "eyebrows", "mouth": "mouth"}


def test_every_expression_is_of_curated_values_and_two_differ_in_two_groups_at_least():
    for face in EXPRESSIONS.values():
        assert list(face) == list(COMPONENTS)
        assert all(value in AVATAAARS[group] for group, value in face.items())
    for a, b in combinations(EXPRESSIONS.values(), 2):
        assert sum(a[group] != b[group] for group in COMPONENTS) >= 2
    assert len({face["mouth"] for face in EXPRESSIONS.values()}) == len(EXPRESSIONS), "no hair hides a mouth"


def test_labels_are_the_expression_and_then_those_of_avatars():
    dataset = AvatarExpressions(2)
    assert dataset.label_names == [*(f"expression={name}" for name in EXPRESSIONS), *Avatars().label_names]
    assert dataset.counterparts
    for place, picture in enumerate(dataset.pictures(16)):
        shown = {name for name, value in zip(dataset.label_names, picture.labels, strict=True) if value}
        name = list(EXPRESSIONS)[place % 7]
        person = choose(0, 2)[place // 7] | EXPRESSIONS[name]
        assert shown == {f"expression={name}", *(f"{group}={value}" for group, value in person.items())}
        assert (picture.name, picture.identity) == (f"0-{place // 7}-{name}", f"0-{place // 7}")


def test_all_but_eyes_eyebrows_and_mouth_of_a_person_stays():
    moving = np.zeros((64, 64), bool)
    for face in EXPRESSIONS.values():
        for group, value in face.items():
            moving |= covered(COMPONENTS[group], AVATAAARS[group][value].options[f"{group}Variant"], 64)
    moving[1:-1, 1:-1] |= (  # and the soft edge
        moving[:-2, 1:-1] | moving[2:, 1:-1] | moving[1:-1, :-2] | moving[1:-1, 2:]
    )
    images = np.stack([picture.image for picture in AvatarExpressions(10).pictures(64)]).reshape(10, 7, 3, 64, 64)
    changes = (images != images[:, :1]).any((0, 1, 2))
    assert changes.sum() > 100 and not (changes & ~moving).any()
    assert all(len({image.tobytes() for image in person}) == 7 for person in images)


def test_nobody_wears_sunglasses_and_all_else_is_as_without_expressions():
    dataset = AvatarExpressions(40, expressions=["happy", "sad"])
    column = dataset.label_names.index("accessories=sunglasses")
    rows = choose(0, 40)
    assert any(row["accessories"] == "sunglasses" for row in rows)
    pictures = list(dataset.pictures(16))
    assert len(pictures) == 80 and not any(picture.labels[column] for picture in pictures)


def test_a_person_is_in_one_split_and_evaluated_against_another_expression():
    data = FaceData(AvatarExpressions(30), resolution=16, batch_size=8)
    data.setup("fit")
    people: dict[str, set[int]] = {}
    for who, split in zip(data.store.identities, data.store.splits.tolist(), strict=True):
        people.setdefault(who, set()).add(split)
    assert len(people) == 30 and all(len(splits) == 1 for splits in people.values())
    batch = next(iter(data.val_dataloader()))
    changed = (batch["labels"][:, :7].argmax(1) + 1) % 7
    assert torch.equal(batch["other_labels"][:, :7].argmax(1), changed)
    names = data.label_names
    kept = [i for i, name in enumerate(names) if name.split("=")[0] not in (*COMPONENTS, "expression")]
    assert torch.equal(batch["labels"][:, kept], batch["other_labels"][:, kept])


def test_the_recogniser_sees_what_the_labels_say():
    pictures, net = list(AvatarExpressions(20, seed=5).pictures(64)), load_extractor("avatarnet")
    labels = torch.from_numpy(np.stack([picture.labels for picture in pictures]))[:, len(EXPRESSIONS) :]
    assert net.label_names == AvatarExpressions().label_names[len(EXPRESSIONS) :]
    with torch.no_grad():
        logits = net(torch.from_numpy(np.stack([picture.image for picture in pictures]))).logits
    right = correct(logits, labels, net.label_names)
    assert all(right[group].float().mean() > 0.95 for group in COMPONENTS)


def test_chosen_expressions_and_attributes_leave_the_pixels():
    few = AvatarExpressions(2, ["happy", "neutral"], attributes=["skin"])
    assert few.label_names[:2] == ["expression=neutral", "expression=happy"]
    assert {name.split("=")[0] for name in few.label_names} == {"expression", "skin"}
    whole = {picture.name: picture.image for picture in AvatarExpressions(2).pictures(16)}
    assert all(np.array_equal(picture.image, whole[picture.name]) for picture in few.pictures(16))


def test_the_fingerprint_holds_every_choice():
    base = AvatarExpressions().fingerprint()
    others = [
        AvatarExpressions(5),
        AvatarExpressions(expressions=["happy", "sad"]),
        AvatarExpressions(seed=1),
        AvatarExpressions(attributes=["hair"]),
        AvatarExpressions(background="#000000"),
    ]
    assert all(other.fingerprint() != base for other in others)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match=r"expressions \['bored'\] are not among .* neutral, happy"):
        AvatarExpressions(expressions=["happy", "bored"])
    with pytest.raises(ValueError, match=r"expressions are \['happy'\]; name at least two"):
        AvatarExpressions(expressions=["happy"])
    with pytest.raises(ValueError, match=r"attributes \['beard'\].*facial_hair"):
        AvatarExpressions(attributes=["beard"])


def test_stores_keep_people_whole_when_more_are_added():
    few, many = build(AvatarExpressions(5, ["happy", "sad"]), 16), build(AvatarExpressions(8, ["happy", "sad"]), 16)
    assert np.array_equal(few.splits, many.splits[:10])
