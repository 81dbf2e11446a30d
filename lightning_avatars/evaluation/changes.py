"""Whether asked-for changes of labels show in what is made of pictures, and leave the rest as it was (StarGAN)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.evaluation.passport import ROUNDING, device_name, facts_of, versions
from lightning_avatars.evaluation.real import BLOCK, spread
from lightning_avatars.evaluation.scores import Result, Score, check_enough, size_name
from lightning_avatars.evaluation.track import Track, on_screen
from lightning_avatars.images import to_bytes
from lightning_avatars.labels import groups, leading, one_hot_groups, seen_values, values, values_in
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.intervals import mean_interval
from lightning_avatars.metrics.processes import add_up, exact, shares

if TYPE_CHECKING:
    from lightning_avatars.families.attribute_translation import AttributeTranslation

CHANGED = 200  # pictures of which each group of labels is changed
SURE = 0.9  # least share of a value's real pictures that a recogniser names alike, for it to know the value by that


@dataclass(frozen=True)
class Change:
    """A group of labels that can be changed, and how a recogniser sees that it was.

    Args:
        group: The group.
        judge: The recogniser.
        told_by: Group of the recogniser -> the number of the value there that it should name, for each value of ours.
        seen: Numbers of the values that occur in the training pictures, V: only to these a picture is changed.
        follow: Group of the module that is a function of this one in the training pictures -> its columns, for each
            value of ours.
    """

    group: str
    judge: Extractor
    told_by: dict[str, Tensor]
    seen: Tensor
    follow: dict[str, Tensor]

    def wanted(self, labels: Tensor, place: Tensor, names: list[str]) -> Tensor:
        """Give pictures, N L, another value of the group, by their places among all each of the others in turn."""
        now, count = values(labels - 0.5, names)[self.group], len(self.seen)
        at = torch.searchsorted(self.seen, now)
        return self.set_to(self.seen[(at + 1 + place % (count - 1)) % count], labels, names)

    def set_to(self, value: Tensor, labels: Tensor, names: list[str]) -> Tensor:
        """Write values of the group, N, into labels, N L, and what follows from them."""
        labels, columns = labels.clone(), groups(names)
        exclusive = self.group in one_hot_groups(names)
        written = one_hot(value, values_in(self.group, names)) if exclusive else value[:, None]
        labels[:, columns[self.group]] = written.to(labels)
        for group, rows in self.follow.items():
            labels[:, columns[group]] = rows.to(labels)[value]
        return labels

    def shown(self, named: dict[str, Tensor], value: Tensor) -> Tensor:
        """Tell whether the recogniser names what it should of pictures with certain values of the group, N."""
        hits = [named[group] == told.to(value.device)[value] for group, told in self.told_by.items()]
        return torch.stack(hits).all(0)

    def kept(self, named: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
        """Return the share of the recogniser's other groups that it names as before, N; 1 where there are no others."""
        others = [g for g in named if g not in self.told_by and g not in self.follow]
        same = [(named[g] == before[g]).double() for g in others]
        return torch.stack(same).mean(0) if same else torch.ones(len(named[next(iter(named))])).double()


@torch.no_grad()
def score_changes(
    module: AttributeTranslation,
    pictures: StorePictures,
    split: str,
    extractors: Sequence[Extractor],
    most: int = CHANGED,
    block: int = BLOCK,
    track: Track = on_screen,
) -> Result | None:
    """Change one group of labels after the other in real pictures, and let a recogniser tell what they show then.

    ``changed`` is the share of pictures that show the value they were changed to; its floor, what the recogniser gets
    right of the same group in the pictures as they are. ``kept`` is the share of the recogniser's other groups that it
    names as before. Both are means over groups and pictures; ``accuracy`` has ``changed`` of each group under its
    name, and ``kept`` as ``others than <group>``.

    A group is judged by the first extractor that has all its labels. One that no extractor has, as ``expression``, is
    judged by all groups of a recogniser that tell its values apart in the real pictures (eyes, eyebrows, mouth): those
    of which it names the same value in 90 % of the pictures of each value. All of them must come out right.

    Groups that are a function of another in the training pictures, as eyes are of an expression, change with that one
    and not alone.

    Args:
        module: Changes the pictures.
        pictures: The pictures, with the labels that the module was trained with among theirs.
        split: What part of the data that is.
        extractors: Those with labels may judge; on the module's device.
        most: Pictures that are changed, at even distances.
        block: Pictures shown at a time; blocks are spread over processes.
        track: Shows how far it is.

    Returns:
        The scores; None where no extractor can judge any of the groups, which is said.
    """
    started, device = time.monotonic(), exact(module.device)
    names, chosen = module.label_names, spread(len(pictures), most)
    count = len(chosen)
    check_enough(count, "pictures are changed")
    labels = torch.from_numpy(pictures.store.labels[pictures.index])[:, label_columns(pictures, names)]
    before = {e.name: described(e, pictures, block, device) for e in extractors if e.label_names}
    changes = changes_of(module, labels, extractors, before)
    if not changes:
        return None
    pictures = StorePictures(pictures.store, pictures.index[chosen.numpy()], pictures.name)
    labels, before = labels[chosen], {name: logits[chosen] for name, logits in before.items()}
    bank = FeatureBank(count, 3 * len(changes), torch.float64).to(device)
    finite = torch.ones((), device=device)
    current = values(labels - 0.5, names)
    for where in track(list(shares(count, block)), "Scoring changes of labels"):
        batch, place = pictures.batch(where, module.device), torch.arange(where.start, where.stop)
        batch["labels"] = labels[where].to(module.device)
        found = []
        for change in changes:
            wanted = module.merged(labels[where], change.wanted(labels[where], place, names))
            made = module.translate(batch, labels=wanted.to(module.device))
            finite *= made.isfinite().all().to(finite)
            logits = change.judge(to_bytes(made)).logits
            assert logits is not None  # of a judge, which knows labels
            named = values(logits.cpu(), change.judge.label_names)
            was = {group: v[where] for group, v in values(before[change.judge.name], change.judge.label_names).items()}
            found += [
                change.shown(named, values(wanted - 0.5, names)[change.group]),
                change.kept(named, was),
                change.shown(was, current[change.group][where]),
            ]
        bank.update(place, torch.stack([x.double() for x in found], 1))
    diverged = (1 - finite).clone()
    add_up(diverged)
    if diverged:
        rank_zero_warn("some changed images are not finite: the model has diverged, their scores are nan")
    passport = {
        "images": count, "seeds": None, "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": None, "labels": {c.group: [c.judge.name, *c.told_by] for c in changes},
        "rounding": ROUNDING, "reference": facts_of(pictures, split), "held_out": None,
        "extractors": {c.judge.name: {"sha256": c.judge.sha256, "resize": c.judge.resize} for c in changes},
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip
    scores, accuracy = concluded(bank.compute().view(count, len(changes), 3), changes, bool(diverged))
    return Result("changes", scores, accuracy, time.monotonic() - started, passport)


def concluded(found: Tensor, changes: list[Change], diverged: bool) -> tuple[dict[str, Score], dict[str, float]]:
    """Take means of what was found of each picture and group, N x groups x (changed, kept, real)."""
    size, judges = size_name(len(found)), {change.judge.name for change in changes}
    judge = judges.pop() if len(judges) == 1 else None
    scores = {
        f"{kind}_{size}": Score(
            math.nan if diverged else float(found[..., i].mean()), mean_interval(found[..., i].mean(1)), floor, judge
        )
        for i, (kind, floor) in enumerate((("changed", float(found[..., 2].mean())), ("kept", None)))
    }
    means = found.mean(0).tolist()
    pairs = ({c.group: m[0], f"others than {c.group}": m[1]}.items() for c, m in zip(changes, means, strict=True))
    return scores, {} if diverged else dict(chain.from_iterable(pairs))


def described(extractor: Extractor, pictures: StorePictures, block: int, device: torch.device) -> Tensor:
    """Let a recogniser look at real pictures, on all processes together: logits, N x classes."""
    bank = FeatureBank(len(pictures), extractor.classes).to(device)
    for where in shares(len(pictures), block):
        logits = extractor(pictures.read(where)).logits
        assert logits is not None  # it has labels
        bank.update(torch.arange(where.start, where.stop), logits)
    return bank.compute().cpu()


def changes_of(
    module: AttributeTranslation, labels: Tensor, extractors: Sequence[Extractor], before: dict[str, Tensor]
) -> list[Change]:
    """Find what can be changed and who can judge it; say what nobody can.

    Args:
        module: Changes pictures.
        labels: Labels of the real pictures, N L.
        extractors: Who could judge.
        before: What those that know labels say of the real pictures, by their names.
    """
    names, rows, found = module.label_names, module.label_rows.cpu(), list[Change]()
    changed = [group for group, columns in groups(names).items() if module.changes[columns.start]]
    unjudged = []
    for group, follow in leading(changed, rows, names).items():
        seen = seen_values(group, rows, names)
        told = ((e, told_by(group, seen, names, e, labels, before[e.name])) for e in extractors if e.name in before)
        change = next((Change(group, judge, by, seen, follow) for judge, by in told if by), None)
        if change is not None:
            found.append(change)
        else:
            unjudged.append(group)
    if unjudged:
        rank_zero_warn(
            f"changes of {', '.join(unjudged)} are not scored: none of the extractors "
            f"({', '.join(e.name for e in extractors) or 'there are none'}) has these labels, or tells their values "
            "apart in real pictures; give reconstruction.extractors a recogniser that was trained on them"
        )
    return found


def told_by(
    group: str, seen: Tensor, names: list[str], judge: Extractor, labels: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Find by which values of which groups a recogniser tells the values of a group; nothing where it can't.

    Args:
        group: The group.
        seen: The values that it should tell apart.
        names: Labels that the group is among.
        judge: The recogniser.
        labels: Labels of real pictures, N L.
        logits: What the recogniser says of them.
    """
    own = names[groups(names)[group]]
    if set(own) <= set(judge.label_names):
        if group not in one_hot_groups(names):
            return {group: torch.arange(2)}
        first = groups(judge.label_names)[group].start
        return {group: torch.tensor([judge.label_names.index(name) - first for name in own])}
    value, found = values(labels - 0.5, names)[group], {}
    for other, named in values(logits, judge.label_names).items():
        per_value = [named[value == v] for v in seen.tolist()]
        if not all(map(len, per_value)):
            return {}  # there are no real pictures of some value
        usual = torch.stack([part.mode().values for part in per_value])
        sure = all(float((part == u).double().mean()) >= SURE for part, u in zip(per_value, usual, strict=True))
        if sure and len(torch.unique(usual)) > 1:
            found[other] = torch.full((values_in(group, names),), -1).index_copy(0, seen, usual)
    told = set(zip(*(usual[seen].tolist() for usual in found.values()), strict=True))
    return found if len(told) == len(seen) else {}


def label_columns(pictures: StorePictures, names: list[str]) -> list[int]:
    """Find the module's labels among those of the pictures; raise where some are missing."""
    known = pictures.store.label_names
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"the model changes labels that {pictures.name} does not have: {', '.join(missing)}; give data with them"
        )
    return [known.index(name) for name in names]
