"""Translation of attributes: which labels are asked for, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lightning_avatars import shipped
from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.evaluation.page import row_names
from lightning_avatars.images import to_bytes, to_float, to_picture
from lightning_avatars.networks.stargan import StarGANDiscriminator
from lightning_avatars.terms import consistency
from lightning_avatars.terms.classification import Classification, classification_loss
from tests.conf.training import TINY
from tests.conf.translation import TinyJudge, TinyTranslator, batch_of, informed, picture, star_game, turn


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


@pytest.mark.parametrize("attributes", [None, ["mood"], ["hat"], ["mood", "eyes"]])
def test_attributes_that_lead_or_are_alone_can_be_changed(attributes):
    moody(attributes=attributes).check_leaders()


def test_an_attribute_that_follows_from_one_that_stays_is_refused():
    with pytest.raises(ValueError, match=r"names 'eyes', which follows from 'mood' .* Name 'mood' instead"):
        moody(attributes=["hat", "eyes"]).check_leaders()


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
    asked = [sets[name].labels for name in ("reconstruction", "counterpart")]
    assert asked == ["of training pictures, then the pictures' own", "the counterparts'"]
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


def test_stargan_goes_between_three_folders(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("photo", "drawing", "sketch")}
    for shade, folder in enumerate(folders.values()):
        Path(folder).mkdir()
        for i in range(20):
            to_picture(picture(1, seed=100 * shade + i)[0]).save(f"{folder}/{i:02}.png")
    dataset = {"class_path": "lightning_avatars.data.domains.DomainFolders", "init_args": {"domains": folders}}
    config = {"model": yaml.safe_load(shipped.find("stargan", "model").read_text()), "data": {"dataset": dataset}}
    for network, small in (("generator", {"width": 4, "blocks": 1}), ("discriminator", {"width": 4, "max_width": 8})):
        config["model"]["init_args"][network]["init_args"] |= small
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    quiet = ["--trainer.logger", "false", "--reconstruction.enabled", "false", "--preview.every", "6"]
    run = ["--trainer.default_root_dir", str(tmp_path / "run"), "--run.images", "6", "--data.batch_size", "6"]
    main(["fit", "-c", TINY, "-c", str(tmp_path / "three.yaml"), *run, *quiet])
    module = load_module(tmp_path / "run/checkpoints/images_000000006.ckpt")
    assert module.label_names == ["domain=photo", "domain=drawing", "domain=sketch"] == module.shown
    assert {tuple(row) for row in module.label_rows.tolist()} == {tuple(row) for row in torch.eye(3).tolist()}
    assert module.images_seen == 6 and list(tmp_path.glob("run/previews/changes_*.png"))
    made = [module.translate({"image": picture(1)}, labels=row[None]) for row in torch.eye(3)]
    assert not torch.equal(made[0], made[1])
