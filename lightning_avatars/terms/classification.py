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
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


def classification_loss(logits: Tensor, labels: Tensor, names: list[str], dropped: bool = False) -> Tensor:
    """Cross-entropy of each ``group=value`` group and each plain name: the mean over groups and images.

    Args:
        logits: What is read, N x L.
        labels: What is so, N x L.
        names: Names of the columns.
        dropped: Whether a row of zeros is of an image whose labels were dropped, and adds nothing; else it says that
            none of the plain names is so.
    """
    columns, one_hot = groups(names), one_hot_groups(names)
    plain = [found.start for group, found in columns.items() if group not in one_hot]
    losses = [
        F.cross_entropy(logits[:, columns[group]], labels[:, columns[group]]) for group in columns if group in one_hot
    ]
    if plain:
        each = F.binary_cross_entropy_with_logits(logits[:, plain], labels[:, plain], reduction="none")
        if dropped:
            each = each * labels.any(1, keepdim=True)
        losses.append(each.sum(1).mean())
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
            that no real image has, and 0 lets the discriminator learn from real images alone, as StarGAN's does (Choi
            et al. 2018, Eq. 2).
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, made: float = 1.0) -> None:
        super().__init__(weight, every)
        if made < 0:
            raise ValueError(f"made is a factor of 0 or more, got {made}")
        self.made = made

    def heads(self, module: Game) -> dict[str, int]:
        return {"class": module.generator.label_dim}

    def forward(self, step: Step) -> Tensor:
        assert step.labels is not None  # the game is conditional: its discriminator has a head for labels
        names, dropped = step.module.label_names, step.module.label_dropout > 0
        real = None
        if step.player == "discriminator":
            real = classification_loss(step.real_verdict.heads["class"], step.labels, names, dropped)
            if not self.made:
                return real
        assert isinstance(step.asked, Tensor)
        fake = classification_loss(step.fake_verdict.heads["class"], step.asked, names, dropped)
        return fake if real is None else real + self.made * fake
