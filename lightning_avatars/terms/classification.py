"""Labels that a discriminator reads off images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.labels import groups, one_hot_groups
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.adversarial import Adversarial, Step


def classification_loss(logits: Tensor, labels: Tensor, names: list[str]) -> Tensor:
    """Cross-entropy of each ``group=value`` group and each plain name: the mean over groups and images.

    Args:
        logits: What is read, N x L.
        labels: What is so, N x L; a row of zeros is not known and adds nothing.
        names: Names of the columns.
    """
    columns, one_hot = groups(names), one_hot_groups(names)
    plain = [found.start for group, found in columns.items() if group not in one_hot]
    losses = [
        F.cross_entropy(logits[:, columns[group]], labels[:, columns[group]]) for group in columns if group in one_hot
    ]
    if plain:
        known = labels.any(1, keepdim=True).to(logits)
        each = F.binary_cross_entropy_with_logits(logits[:, plain], labels[:, plain], reduction="none")
        losses.append((each * known).sum(1).mean())
    return torch.stack(losses).sum() / len(columns)


class Classification(Term):
    """Labels read off images (ACGAN, Odena et al. 2017, Sec. 3): a term for both players.

    The discriminator learns to read them off real and made images, the generator to draw what it is asked for. The mean
    over groups of labels gives the weight the same meaning for one class and for 40 attributes. Needs a ``class`` head,
    such as ``ClassHead``. Images whose labels were dropped don't count.

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
        made: Factor of made images within the discriminator's loss. The paper's is 1; but then the two agree on marks
            that no real image has, and 0 lets the discriminator learn from real images alone.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, made: float = 1.0) -> None:
        super().__init__(weight, every)
        if made < 0:
            raise ValueError(f"made is a factor of 0 or more, got {made}")
        self.made = made

    def heads(self, module: Adversarial) -> dict[str, int]:
        return {"class": module.generator.label_dim}

    def forward(self, step: Step) -> Tensor:
        assert step.labels is not None  # the game is conditional: its discriminator has a head for labels
        names = step.module.label_names
        fake = classification_loss(step.fake_verdict.heads["class"], step.labels, names)
        if step.player == "generator":
            return fake
        return classification_loss(step.real_verdict.heads["class"], step.labels, names) + self.made * fake
