"""Path length regularisation (StyleGAN2, Sec. 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.metrics.processes import add_up
from lightning_avatars.networks.style import StyleGenerator
from lightning_avatars.schedules import Schedule
from lightning_avatars.second_order import SecondOrder
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


def path_lengths(images: Tensor, styles: Tensor, direction: Tensor) -> Tensor:
    """How far each image moves along a direction with its styles, N: the norm of ``J^T y``, a mean square over layers.

    Args:
        images: Images, N C H W.
        styles: The styles that they were made of, N x layers x style_dim.
        direction: Normal numbers of the images' shape; they are brought to a norm of about the root of C.
    """
    y = direction / (images.shape[2] * images.shape[3]) ** 0.5
    with torch.autocast(images.device.type, enabled=False):  # would cast what the synthesis does in float32
        (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.float().square().sum(2).mean(1).add(1e-12).sqrt()  # sqrt has no slope at 0


class PathLength(Term):
    """Keep image changes proportional to style changes (StyleGAN2, Eq. 4).

    The mean length is that of the turns before, and the styles are mixed as they are for the other losses. Directions
    belong to their images, so that processes and chunks agree.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 2.
        every: Turns between evaluations; the paper's is 4.
        shrink: One image of so many is looked at.
        decay: Share of the old mean length that is kept with each evaluation.
    """

    player = "generator"
    needs = frozenset({"latent"})
    mean: Tensor
    seen: Tensor

    def __init__(self, weight: float | Schedule = 2.0, every: int = 4, shrink: int = 2, decay: float = 0.99) -> None:
        super().__init__(weight, every)
        if shrink < 1:
            raise ValueError(f"shrink must be at least 1, for every image, got {shrink}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a share in [0, 1), got {decay}")
        self.shrink, self.decay = shrink, decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2), persistent=False)  # lengths of this turn: their sum and number

    def check(self, module: Game) -> None:
        if not isinstance(module.generator, StyleGenerator):
            raise ValueError(
                "it is a term of generators with a mapping and a synthesis (StyleGenerator), and "
                f"{type(module.generator).__name__} is none: leave it out"
            )

    def forward(self, step: Step) -> Tensor | None:
        generator = step.module.generator
        assert isinstance(generator, StyleGenerator)
        draws = step.draws
        chosen = slice(-draws.start % self.shrink, None, self.shrink)  # by their place in the global batch
        latent, labels = step.latent[chosen], None if step.labels is None else step.labels[chosen]
        if not len(latent):
            return None
        kind = latent.device.type
        wide = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != torch.float16
        with torch.autocast(kind, enabled=wide), SecondOrder():  # as Step.run: float16 has no room for derivatives
            w = generator.mapping(latent, labels)
            styles = generator.mix(w, labels) if generator.style_mixing else generator.spread(w)
            images = generator.synthesis(styles).float()
        direction = draws.normal("path_length", *images.shape[1:])[chosen]
        lengths = path_lengths(images, styles, direction)
        self.seen[0] += lengths.detach().sum()
        self.seen[1] += len(lengths)
        share = draws.total / -(-draws.total // self.shrink) / len(draws)  # chunks of any size add up to the mean
        return (lengths - self.mean).square().sum() * share

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        add_up(self.seen)
        total, count = self.seen
        self.mean.lerp_(total / count, 1 - self.decay)
        self.seen.zero_()
