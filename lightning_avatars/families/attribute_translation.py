"""Translation that changes what pictures show, by labels: StarGAN."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import OWN_LABELS, EvaluationSet
from lightning_avatars.families.step import Given
from lightning_avatars.families.translation import SHOWN, Translation, TranslationStep
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.labels import following, functions_of, groups, leading, one_hot_groups, seen_values
from lightning_avatars.networks.base import Discriminator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.objectives.adversarial import Objective


class AttributeStep(TranslationStep):
    """A turn in which pictures are changed to show labels of other training pictures."""

    module: AttributeTranslation
    labels: Tensor
    offers = frozenset({"cycled"})
    handed_over = ("wanted", "made")

    @cached_property
    def wanted(self) -> Tensor:
        """Labels that the fakes shall have, N L."""
        return self.module.other_labels(self.labels, self.draws.uniform(self.stream, 1)[:, 0])

    @property
    def asked(self) -> Given:
        return self.wanted

    @property
    def given_to_both(self) -> Given:
        return torch.cat([self.labels, self.wanted])

    @cached_property
    def made(self) -> Tensor:
        with self.graph():
            return self.run(self.module.generator, self.batch["image"], self.wanted, False)

    @cached_property
    def cycled(self) -> Tensor:
        return self.run(self.module.generator, self.made, self.labels, False)


class AttributeTranslation(Translation):
    """Translation that changes what pictures show, by labels: StarGAN (Choi et al. 2018).

    Each picture is given the labels of another training picture, so that labels go together as they do in the data.
    What the paper has beside are terms: ``terms.classification.Classification`` for both players, with ``made: 0`` for
    the discriminator's, ``terms.cycle.Cycle`` and ``terms.gradients.GradientPenalty``.

    Args:
        generator: Turns pictures and labels into images.
        discriminator: Judges images and names their labels.
        objective: What the two minimise.
        attributes: Groups of labels that are changed, such as ``[expression, Smiling]``, and with them those that are
            functions of one in the training pictures, as eyes are of an expression; the others stay as they are. All
            by default.
        kwargs: Of ``Game``.
    """

    step_class = AttributeStep
    generator: Translator

    def __init__(
        self,
        generator: Translator,
        discriminator: Discriminator,
        objective: Objective,
        attributes: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)
        self.attributes = attributes
        self.followers: tuple[Tensor, set[str]] | None = None  # of the attributes, and the label rows that tell them
        self.check()

    def check(self) -> None:
        super().check()
        if not self.conditional or self.label_dropout:
            raise ValueError(
                f"{type(self).__name__} is told by labels what to change: set conditional to true and label_dropout "
                f"to 0, got {self.conditional} and {self.label_dropout}"
            )

    def check_data(self, data: FaceData) -> None:
        super().check_data(data)
        self.check_leaders()

    def check_leaders(self) -> None:
        """Raise a ValueError where what is changed can't change alone."""
        columns, rows = groups(self.label_names), self.label_rows.cpu()
        for leader in (group for group, found in columns.items() if not self.changes[found.start]):
            led = functions_of(leader, rows, self.label_names).keys() & set(self.attributes or ())
            if led:
                raise ValueError(
                    f"attributes names {min(led)!r}, which follows from {leader!r} in the training pictures: none of "
                    f"them shows it changed alone. Name {leader!r} instead, and what follows from it changes with it"
                )

    @property
    def changes(self) -> list[bool]:
        """Tell which columns of the labels are changed."""
        columns = groups(self.label_names)
        chosen = self.attributes if self.attributes is not None else list(columns)
        unknown = sorted(set(chosen) - columns.keys())
        if unknown or not chosen:
            named = f"attributes names {unknown[0]!r}" if unknown else "attributes is empty"
            raise ValueError(
                f"{named}: give groups of the data's labels, of {', '.join(columns) or 'which it has none'}"
            )
        changed = chosen if self.attributes is None else {*chosen, *self.followers_of(chosen)}
        return [name.partition("=")[0] in changed for name in self.label_names]

    def followers_of(self, chosen: list[str]) -> set[str]:
        """Find the groups that are functions of those that are chosen, once for the label rows that there are."""
        if self.followers is None or self.followers[0] is not self.label_rows:
            found = (functions_of(group, self.label_rows.cpu(), self.label_names) for group in chosen)
            self.followers = self.label_rows, {follower for follow in found for follower in follow}
        return self.followers[1]

    def other_labels(self, labels: Tensor, u: Tensor) -> Tensor:
        """Put the labels of other training pictures into those of some, N L, where they are changed.

        Args:
            labels: The pictures' own labels.
            u: Numbers in [0, 1), N, that say which the others are.
        """
        if self.label_rows.device != labels.device:
            self.label_rows = self.label_rows.to(labels.device)
        return self.merged(labels, self.label_rows[(u * len(self.label_rows)).long()])

    def merged(self, labels: Tensor, others: Tensor) -> Tensor:
        """Take those labels that are changed from others, N L, and the rest from the pictures' own."""
        changed = torch.tensor(self.changes).to(labels.device, non_blocking=True)
        return torch.where(changed, others, labels)

    def source_planes(self, batch: Batch) -> Tensor:
        return self.ordered(to_float(batch["image"]))

    def translate(self, batch: Batch, to: str | None = None, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("say what pictures shall show: give labels")
        return self.changed(self.source_planes(batch), labels.to(self.device))

    def changed(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Translate pictures to show labels."""
        with self.sampling() as network:
            images: Tensor = network(pictures, labels)
        return images

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        sets, labels = {}, self.drawn_labels(batch)
        made = self.ordered(to_float(to_bytes(self.translate(batch, labels=labels))))
        back = self.changed(made, batch["labels"])
        there = f"of training pictures, then {OWN_LABELS}"
        sets["reconstruction"] = EvaluationSet(back, batch["image"], mask=batch.get("mask"), labels=there)
        if "other" in batch:
            images = self.translate(batch, labels=batch["other_labels"])
            of = "the counterparts'"
            sets["counterpart"] = EvaluationSet(images, batch["other"], source=batch["image"], labels=of)
        return sets

    def drawn_labels(self, batch: Batch) -> Tensor:
        """Draw labels for held-out pictures, by their places in the store."""
        return self.merged(batch["labels"], self.draw_labels(batch["index"]))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"image": to_bytes(self.translate(batch, labels=self.drawn_labels(batch)))}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        some = Batch({name: values[:SHOWN] for name, values in batch.items()})
        asked = [self.asking(name, some["labels"]) for name in self.shown]
        return {"changes": torch.stack([to_float(some["image"]), *(self.translate(some, labels=y) for y in asked)], 1)}

    @property
    def shown(self) -> list[str]:
        """Name the labels that a preview asks for: what occurs in training pictures, but not what follows from it."""
        names, rows, shown = self.label_names, self.label_rows.cpu(), list[str]()
        columns = groups(names)
        for group in leading([group for group, found in columns.items() if self.changes[found.start]], rows, names):
            own = names[columns[group]]
            shown += [own[v] for v in seen_values(group, rows, names)] if group in one_hot_groups(names) else own
        return shown

    def asking(self, name: str, labels: Tensor) -> Tensor:
        """Set a value of a group in labels, N L, or a plain label to its contrary, and what follows from it."""
        names, labels = self.label_names, labels.clone()
        group, column = name.partition("=")[0], names.index(name)
        contrary = 1 - labels[:, column]
        labels[:, groups(names)[group]] = 0
        labels[:, column] = 1 if group in one_hot_groups(names) else contrary
        return following(labels, group, self.label_rows, names)
