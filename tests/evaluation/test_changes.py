"""Changes of labels, judged by a recogniser that sees single pixels, of modules that change what they are made to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_avatars.data.base import FaceData
from lightning_avatars.evaluation.changes import score_changes, told_by
from lightning_avatars.evaluation.reconstructions import held_out
from lightning_avatars.images import to_float
from lightning_avatars.labels import functions_of, values
from lightning_avatars.metrics.extractors.base import Description, Extractor
from tests.conf.tiny import TinyFaces
from tests.evaluation.arrays import LABELS, Shower, noise, silent

RED, BLUE = torch.tensor([250, 20, 20]), torch.tensor([20, 20, 250])


class Pixels(Extractor):
    """Sees the colour in the middle of a disc, and how far it reaches.

    Args:
        label_names: What it calls that.
    """

    def __init__(self, label_names: list[str] = LABELS, name: str = "pixels") -> None:
        super().__init__()
        self.name, self.dim, self.sha256, self.resize = name, 3, "0", "none"
        self.label_names, self.classes = list(label_names), len(label_names)

    def prepare(self, images):
        return images.float()

    def describe(self, prepared):
        middle, beside = prepared[:, :, 4, 4], prepared[:, :, 4, 6]
        logits = torch.stack([middle[:, 0], middle[:, 2], 100 - beside.amin(1)], 1)
        return Description(middle, logits)


class Painter(Shower):
    """Paints discs in the colour asked for; larger, if asked to, only where they become blue.

    Args:
        names: What the labels are called.
    """

    def __init__(self, names: list[str] = LABELS, rows: torch.Tensor | None = None) -> None:
        super().__init__(noise(1))
        self.label_names = list(names)
        self.label_rows = torch.zeros(0, len(names)) if rows is None else rows
        self.asked: list[torch.Tensor] = []

    @property
    def changes(self):
        return [True] * len(self.label_names)

    def merged(self, labels, others):
        return torch.where(torch.tensor(self.changes), others, labels)

    def translate(self, batch, to=None, labels=None):
        self.asked.append(labels)
        y, x = torch.meshgrid(*[torch.arange(8) / 8 - 0.5] * 2, indexing="ij")
        images = batch["image"].clone()
        for i, label in enumerate(labels):
            blue = bool(label[1] > 0.5)
            was_large = bool(batch["image"][i, :, 4, 6].amin() < 100)
            large = bool(label[2] > 0.5) if blue else was_large
            image = torch.full((3, 8, 8), 230)
            image[:, (x**2 + y**2) < (0.4 if large else 0.2) ** 2] = (BLUE if blue else RED)[:, None]
            images[i] = image
        return to_float(images)


class Moods(TinyFaces):
    """The same discs, whose colours are called moods."""

    @property
    def label_names(self) -> list[str]:
        return ["mood=calm", "mood=sad", "large"]


def pictures_of(dataset):
    data = FaceData(dataset, resolution=8, batch_size=8, num_workers=0)
    data.prepare_data()
    data.setup("test")
    return held_out(data, "test", 1000)


@pytest.fixture(scope="module")
def pictures():
    return pictures_of(TinyFaces(200))


def test_the_changed_group_and_the_others_are_judged_picture_by_picture(pictures):
    result = score_changes(Painter(), pictures, "test", [Pixels()], block=7, track=silent)
    labels, count = pictures.store.labels[pictures.index], len(pictures)
    blue = float(labels[:, 1].mean())
    # Sizes change where discs are blue; colours always, and sizes stay then, whichever way
    assert result.accuracy == pytest.approx(
        {"colour": 1, "others than colour": 1, "large": blue, "others than large": 1}
    )
    assert 0.2 < blue < 0.8 and result.set == "changes"
    changed, kept = result.scores[f"changed_{count}"], result.scores[f"kept_{count}"]
    assert changed.value == pytest.approx((1 + blue) / 2) and kept.value == 1
    assert changed.floor == 1 and kept.floor is None and changed.extractor == "pixels"
    per_picture = (1 + labels[:, 1]) / 2
    half = 2.0 * per_picture.std(ddof=1) / np.sqrt(count)  # Student's t of some 30 pictures, about
    assert changed.interval == pytest.approx((changed.value - half, changed.value + half), abs=0.01)
    assert result.passport["labels"] == {"colour": ["pixels", "colour"], "large": ["pixels", "large"]}
    assert result.passport["images"] == count and result.passport["reference"]["split"] == "test"


def test_every_picture_is_asked_for_another_value_and_nothing_else(pictures):
    module = Painter()
    score_changes(module, pictures, "test", [Pixels()], block=1000, track=silent)
    colour, large = module.asked
    labels = torch.from_numpy(pictures.store.labels[pictures.index])
    assert torch.equal(colour[:, :2], 1 - labels[:, :2]) and torch.equal(colour[:, 2], labels[:, 2])
    assert torch.equal(large[:, :2], labels[:, :2]) and torch.equal(large[:, 2], 1 - labels[:, 2])


def test_what_is_not_asked_for_must_stay(pictures):
    class Enlarging(Painter):
        def translate(self, batch, to=None, labels=None):
            return super().translate(batch, to, torch.tensor([0.0, 1, 1]).expand(len(labels), -1))

    result = score_changes(Enlarging(), pictures, "test", [Pixels()], track=silent)
    labels = pictures.store.labels[pictures.index]
    red, small = 1 - labels[:, 1].mean(), 1 - labels[:, 2].mean()
    expected = {"colour": red, "others than colour": 1 - small, "large": small, "others than large": 1 - red}
    assert result.accuracy == pytest.approx({name: float(share) for name, share in expected.items()})


def test_a_group_that_no_recogniser_has_is_judged_by_what_tells_its_values_apart():
    moods = pictures_of(Moods(200))
    result = score_changes(Painter(Moods().label_names), moods, "test", [Pixels()], track=silent)
    assert result.passport["labels"] == {"mood": ["pixels", "colour"], "large": ["pixels", "large"]}
    assert result.accuracy["mood"] == result.accuracy["others than mood"] == 1


def test_what_nobody_can_judge_is_said_and_left_out(pictures):
    class Blind(Pixels):
        def describe(self, prepared):
            described = super().describe(prepared)
            return described._replace(logits=described.logits * 0)

    strange = ["shade=a", "shade=b", "wide"]
    with pytest.warns(UserWarning, match=r"changes of colour, large are not scored: none of the extractors \(blind\)"):
        assert score_changes(Painter(), pictures, "test", [Blind(strange, "blind")], track=silent) is None
    with pytest.warns(UserWarning, match=r"\(there are none\)"):
        assert score_changes(Painter(), pictures, "test", [], track=silent) is None


def test_groups_that_follow_from_another_change_with_it():
    names = ["mood=x", "mood=y", "mood=z", "eyes=open", "eyes=shut", "hat"]
    rows = torch.tensor([[1.0, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 1]])
    assert functions_of("hat", rows, names) == {}
    (eyes,) = functions_of("mood", rows, names).values()
    assert eyes.tolist() == [[1, 0], [0, 1], [0, 0]]
    judge = Pixels(["eyes=open", "eyes=shut", "hat"])
    before = torch.tensor([[1.0, 0, -1], [1, 0, 1], [0, 1, -1], [0, 1, 1]])
    (told,) = told_by("mood", torch.tensor([0, 1]), names, judge, rows, before).values()
    assert told.tolist() == [0, 1, -1]
    assert values(before, judge.label_names)["hat"].tolist() == [0, 1, 0, 1]


def test_only_values_that_were_trained_on_are_asked_for_and_followers_do_not_change_alone():
    class Trained(Painter):
        def translate(self, batch, to=None, labels=None):
            self.asked.append(labels)
            return to_float(batch["image"])

    dataset = Moods(200)
    names = dataset.label_names
    moods = pictures_of(dataset)
    rows = torch.tensor([[1.0, 0, 1], [0, 1, 0]])  # the sad are small
    module = Trained(names, rows)
    result = score_changes(module, moods, "test", [Pixels()], block=1000, track=silent)
    (asked,) = module.asked
    assert torch.equal(asked[:, 1], 1 - asked[:, 2]) and list(result.accuracy) == ["mood", "others than mood"]
    with pytest.warns(UserWarning, match="mood"):  # a recogniser that tells nothing apart
        assert score_changes(module, moods, "test", [Pixels(["a", "b", "c"])], track=silent) is None


def test_only_what_a_module_changes_is_changed(pictures):
    class Sizes(Painter):
        @property
        def changes(self):
            return [False, False, True]

    result = score_changes(Sizes(), pictures, "test", [Pixels()], track=silent)
    assert list(result.accuracy) == ["large", "others than large"]


def test_a_diverged_model_has_no_scores(pictures):
    class Diverged(Painter):
        def translate(self, batch, to=None, labels=None):
            return super().translate(batch, to, labels) * torch.nan

    with pytest.warns(UserWarning, match="some changed images are not finite"):
        result = score_changes(Diverged(), pictures, "test", [Pixels()], track=silent)
    assert all(np.isnan(score.value) for score in result.scores.values()) and result.accuracy == {}


def test_pictures_without_the_labels_are_refused(pictures):
    with pytest.raises(ValueError, match="changes labels that tiny does not have: smile; give data with them"):
        score_changes(Painter(["smile", *LABELS]), pictures, "test", [Pixels()], track=silent)
