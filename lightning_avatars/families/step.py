"""One player's turn in a game: all that losses and terms may look at, made when it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lightning_avatars.data.batches import Batch
from lightning_avatars.networks.autoencoder import Reconstruction
from lightning_avatars.networks.base import Verdict
from lightning_avatars.second_order import SecondOrder
from lightning_avatars.seeding import Draws

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game

Player = Literal["discriminator", "generator"]
Given = Tensor | tuple[int, ...]  # labels, or which of several networks each image goes through


class Step:
    """One player's turn on one chunk of a batch; every tensor is made when first asked for.

    Args:
        module: The game.
        batch: The chunk; ``image`` is float, N C H W in [-1, 1].
        draws: Random numbers for the chunk's images.
        player: Whose turn it is.
        differentiates: Names of tensors that must carry gradients.
        stream: Name of the draw that fakes are made of, such as latent vectors; turns that share fakes share it.
        keeps_fake: Whether the fake will be used again in the generator's turn, so that its graph must be kept.
    """

    made: Tensor  # the generator's output, with its graph where this turn or the next one needs it
    offers: frozenset[str] = frozenset()  # which of the following, which not every game has, terms may ask for
    latent: Tensor  # what the fake is made of
    target: Tensor  # what the fake should be
    reconstruction: Reconstruction  # all that an autoencoder makes of the real image
    source: Tensor  # what the fake is a translation of
    cycled: Tensor  # the fake, translated back: it should be the real image
    identity: Tensor  # what the generator makes of images that should stay as they are, which are real
    handed_over: tuple[str, ...] = ("made",)  # what turns that share their fakes share

    def __init__(
        self,
        module: Game,
        batch: Batch,
        draws: Draws,
        player: Player,
        differentiates: frozenset[str] = frozenset(),
        stream: str = "latent",
        keeps_fake: bool = False,
    ) -> None:
        self.module, self.batch, self.draws, self.player = module, batch, draws, player
        self.differentiates, self.stream, self.keeps_fake = differentiates, stream, keeps_fake
        self.labels = batch["labels"] if module.conditional else None
        if self.labels is not None and module.label_dropout:  # the same images in both turns
            self.labels = self.labels * (draws.uniform("label_dropout", 1) >= module.label_dropout)
        self.real = self.leaf("real", batch["image"])

    def leaf(self, name: str, x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if name in self.differentiates else x

    def graph(self) -> torch.set_grad_enabled:
        """Keep graphs where this turn or the next one needs them."""
        return torch.set_grad_enabled(self.player == "generator" or self.keeps_fake)

    @cached_property
    def fake(self) -> Tensor:
        return self.made if self.player == "generator" else self.leaf("fake", self.made.detach())

    def judge(self, x: Tensor, stream: str, given: Given | None = None) -> Verdict:
        """Ask the discriminator about images; ``stream`` names the draw of their augmentation."""
        given = self.given if given is None else given
        return self.run(self.module.discriminator, self.shown(x, stream), given, bool(self.differentiates))

    def shown(self, x: Tensor, stream: str) -> Tensor:
        """Return what the discriminator sees of images."""
        if self.module.augment is None:
            return x
        augmented: Tensor = self.module.augment(x, self.draws, stream)
        return augmented.contiguous(memory_format=self.module.memory_format)

    @property
    def given(self) -> Given | None:
        """What networks are given beside real images."""
        return self.labels

    @property
    def asked(self) -> Given | None:
        """What networks are given beside images that the generator makes: what these should show."""
        return self.given

    def run(self, network: nn.Module, x: Tensor, given: Given | None, derived: bool) -> Any:  # noqa: ANN401 - images, or a verdict
        """Run a network; one that is derived twice runs uncompiled, and not in float16, which has no room for that."""
        if not derived:
            return network(x, given).float()
        kind = x.device.type
        wide = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != torch.float16
        with torch.autocast(kind, enabled=wide), SecondOrder():
            return network.forward(x, given).float()  # forward is never compiled

    @cached_property
    def real_verdict(self) -> Verdict:
        return self.judge(self.real, f"{self.player}/real")

    @cached_property
    def fake_verdict(self) -> Verdict:
        return self.judge(self.fake, f"{self.player}/fake", self.asked)

    def handed(self) -> dict[str, Any]:
        """Return what was made for this turn and serves the next player's too."""
        return {name: self.__dict__[name] for name in self.handed_over if name in self.__dict__}
