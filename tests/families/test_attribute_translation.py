"""Translation of attributes: which labels are asked for, and the way back."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.evaluation.page import row_names
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.networks.stargan import StarGANDiscriminator
from lightning_avatars.terms import consistency
from lightning_avatars.terms.classification import Classification, classification_loss
from tests.conf.translation import TinyJudge, TinyTranslator, batch_of, informed, star_game, turn


def test_wanted_labels_are_those_of_other_pictures_and_only_where_they_are_changed():
    module = informed(star_game(attributes=["large"]))
    module.label_rows = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 1, 1]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert torch.equal(module.other_labels(labels, torch.tensor([0.9, 0.5])), torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    module.attributes = None
    assert torch.equal(module.other_labels(labels, torch.tensor([0.6, 0.2])), module.label_rows[:2].flip(0))


MOODS = ["eyes=open", "eyes=shut", "mood=calm", "mood=sad", "mood=bored", "mood=glad", "hat"]  # the sad shut theirs
ROWS = torch.tensor(
    [
        [1.0, 0, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 1],
        [0, 1, 0, 1, 0, 0, 0],
        [0, 1, 0, 1, 0, 0, 1],
        [1, 0, 0, 0, 0, 1, 0],
    ]
)  # and nobody is bored


def moody(**more):
    """A game of labels of which one follows from another."""
    parts = {"generator": TinyTranslator(label_dim=7), "discriminator": TinyJudge(label_dim=7)}
    module = informed(star_game(**parts, **more))
    module.label_names, module.label_rows = MOODS, ROWS
    return module


def test_what_follows_from_an_attribute_changes_with_it():
    module, rows = moody(attributes=["mood"]), ROWS
    assert module.changes == [True] * 6 + [False]
    wanted = module.other_labels(rows[:1].expand(5, -1), torch.arange(5) / 5)
    assert torch.equal(wanted, torch.cat([rows[:, :6], torch.zeros(5, 1)], 1))
    module.label_rows = rows.clone()
    module.label_rows[0, :2] = torch.tensor([0.0, 1])  # somebody calm has shut eyes
    assert module.changes == [False] * 2 + [True] * 4 + [False]
    module.attributes = None
    assert all(module.changes)


@pytest.mark.parametrize(("attributes", "last"), [(None, ["hat"]), (["mood"], [])])
def test_previews_ask_for_what_there_is_and_the_page_names_it(attributes, last):
    module, batch = moody(attributes=attributes), batch_of()
    batch["labels"] = ROWS[:4]
    names = ["mood=calm", "mood=sad", "mood=glad", *last]
    assert module.shown == names and row_names(module, 1 + len(names)) == ["source", *names]
    asked = [module.asking(name, batch["labels"]) for name in names]
    there = {tuple(row) for row in torch.cat([ROWS, module.asking("hat", ROWS[4:])]).tolist()}
    assert {tuple(row) for labels in asked for row in labels.tolist()} <= there
    assert torch.equal(asked[1], torch.cat([ROWS[2:4, :6].repeat(2, 1), ROWS[:4, 6:]], 1))
    shown = module.preview(batch)["changes"]
    assert shown.shape[:2] == (4, 1 + len(names)) and torch.equal(shown[:, 0], to_float(batch["image"]))
    torch.testing.assert_close(shown[:, 2], module.translate(batch, labels=asked[1]))


def test_a_picture_gets_the_wanted_labels_and_is_brought_back_with_its_own():
    module = star_game()
    step = turn(module, "generator")
    real, labels = step.batch["image"], step.batch["labels"]
    assert {tuple(row) for row in step.wanted.tolist()} <= {tuple(row) for row in torch.eye(3).tolist()}
    torch.testing.assert_close(step.made, module.generator(real, step.wanted))
    torch.testing.assert_close(step.cycled, module.generator(step.made, labels))
    names = module.label_names
    read = module.discriminator(step.made).heads["class"]
    torch.testing.assert_close(Classification()(step), classification_loss(read, step.wanted, names))
    step = turn(module, "discriminator")
    read = module.discriminator(real).heads["class"]
    torch.testing.assert_close(Classification(made=0.0)(step), classification_loss(read, labels, names))


def test_attributes_are_scored_against_counterparts_and_the_way_back():
    module, batch = informed(star_game()), batch_of()
    sets = module.evaluation_sets(batch)
    assert torch.equal(sets["counterpart"].target, batch["other"])
    torch.testing.assert_close(sets["counterpart"].images, module.translate(batch, labels=batch["other_labels"]))
    there = to_bytes(module.translate(batch, labels=module.drawn_labels(batch)))
    torch.testing.assert_close(
        sets["reconstruction"].images, module.translate({"image": there}, labels=batch["labels"])
    )
    assert torch.equal(sets["reconstruction"].target, batch["image"])
    del batch["other"]
    assert list(module.evaluation_sets(batch)) == ["reconstruction"]
    shown = module.preview(batch)["changes"]
    assert shown.shape == (4, 4, 3, 8, 8)
    blue = torch.cat([torch.tensor([0.0, 1]).expand(4, 2), batch["labels"][:, 2:]], 1)
    torch.testing.assert_close(shown[:, 2], module.translate(batch, labels=blue))
    flipped = torch.cat([batch["labels"][:, :2], 1 - batch["labels"][:, 2:]], 1)
    torch.testing.assert_close(shown[:, 3], module.translate(batch, labels=flipped))


def test_moved_pictures_are_judged_by_the_labels_that_they_were_made_for(monkeypatch):
    monkeypatch.setattr(consistency, "flip_and_move", lambda images, *_: images)
    judge = StarGANDiscriminator(8, label_dim=3, width=4, projects=True)
    step = turn(star_game(discriminator=judge), "discriminator")
    assert not torch.equal(step.wanted, step.labels)
    assert consistency.Consistency(balanced=True)(step).item() == 0
