"""What every regulariser and auxiliary loss is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_avatars.schedules import Schedule, value_at

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


FAMILIES = {  # which have what terms may need
    "latent": "Adversarial", "target": "AdversarialAutoencoder or PairedTranslation",
    "reconstruction": "AdversarialAutoencoder", "source": "PairedTranslation or OneWayTranslation",
    "cycled": "DomainTranslation or AttributeTranslation", "identity": "DomainTranslation or OneWayTranslation",
}  # fmt: skip


class Term(nn.Module):
    """A weighted loss beside a player's objective, or an action after its step.

    State lives in buffers; a term's own parameters belong to its player's optimizer.

    Args:
        weight: Factor of the loss, or a schedule of it; 0 turns the term off.
        every: Turns between evaluations; the loss counts ``every`` times as much when it is due (StyleGAN2, Sec. 3.1).
    """

    # What is differentiated: "real", "fake" and "latent" of the step, which must carry gradients, or images of its own.
    # Turns with any of it run the networks uncompiled.
    differentiates: tuple[str, ...] = ()
    player: str | None = None  # whose term it is; None for either's
    needs: frozenset[str] = frozenset()  # what the step must offer that not every game has, such as "target"

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every counts turns and must be at least 1, got {every}")
        self.weight, self.every = weight, every

    def weight_at(self, images_seen: int) -> float:
        return value_at(self.weight, images_seen)

    def heads(self, module: Game) -> dict[str, int]:
        """Name the heads of the discriminator's verdicts that are read in this game, with their lengths."""
        return {}

    def check(self, module: Game) -> None:
        """Raise a ValueError where this game has no place for the term; called before any training."""

    def prepare(self, device: torch.device) -> None:
        """Load what training needs and sampling does not; called before training."""

    def forward(self, step: Step) -> Tensor | None:
        """Evaluate the unweighted loss on one chunk of a batch, a mean over its images; None if there is none."""
        return None

    def after_step(self, step: Step) -> None:
        """Act once the player has stepped; ``step`` is the turn's last chunk."""


def check_terms(module: Game) -> None:
    """Check that a game's terms fit it, and that each head of the discriminator is trained and obeyed.

    Raises:
        ValueError: A term does not fit, or reads a head that is not there or has another length, or no term trains or
            obeys one.
    """
    there, owner = module.discriminator.heads, type(module.discriminator).__name__
    terms = {
        player: {name: term for name, term in named.named_children() if isinstance(term, Term)}
        for player, named in module.terms.named_children()
    }
    for player, named in terms.items():
        for name, term in named.items():
            try:
                if term.player not in (None, player):
                    raise ValueError(f"it is a term of the {term.player}: put it into {term.player}_terms")
                absent = sorted(term.needs - module.step_class.offers)
                if absent:
                    raise ValueError(
                        f"a {type(term).__name__} needs a {absent[0]} in every turn, which {type(module).__name__} has "
                        f"not: use another family, such as {FAMILIES[absent[0]]}, or leave the term out"
                    )
                term.check(module)
            except ValueError as error:
                raise ValueError(f"{player}_terms.{name}: {error}") from error
            for head, length in term.heads(module).items():
                if there.get(head) != length:
                    has = f"has one of length {there[head]}" if head in there else "has none"
                    raise ValueError(
                        f"{player}_terms.{name} reads a head {head!r} of length {length}, but {owner} {has}: set its "
                        "head, to lightning_avatars.networks.layers.labels.ClassHead or CodeHead, for instance"
                    )
    for player, does in (("discriminator", "trains"), ("generator", "makes the generator obey")):
        read = {head for term in terms[player].values() if term.weight != 0 for head in term.heads(module)}
        for head in sorted(there.keys() - read):
            raise ValueError(
                f"{owner} has a head {head!r} that no term {does}: add one to {player}_terms, such as Classification "
                "for 'class' or Information for 'code', with a weight that is not 0, or leave the head out"
            )


def check_learns(module: Game) -> None:
    """Raise a ValueError where a game's generator has nothing to learn from at first."""
    first = value_at(module.adversarial_weight, 0)
    if first < 0:
        raise ValueError(f"adversarial_weight is a factor of 0 or more, got {first}")
    terms = [term for term in module.terms["generator"].children() if isinstance(term, Term)]
    if first == 0 and not any(term.every == 1 and term.weight_at(0) for term in terms):
        raise ValueError(
            "adversarial_weight begins at 0: give generator_terms that the generator learns from, at least one of "
            "them in every turn and with a weight from the start"
        )
