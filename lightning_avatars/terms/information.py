"""Codes that a discriminator finds again in what was made from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.latents import Codes
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.adversarial import Adversarial
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


def categorical_information(logits: Tensor, code: Tensor) -> Tensor:
    """Lower bound in nats on what images tell of a categorical code: ``log K`` less the cross-entropy, N x K each."""
    return math.log(code.shape[1]) - F.cross_entropy(logits, code)


def continuous_information(mean: Tensor, log_deviation: Tensor, code: Tensor) -> Tensor:
    """Lower bound in nats on what images tell of uniform codes in [-1, 1], of a normal posterior; all N x codes."""
    surprise = ((code - mean) * (-log_deviation).exp()).square() / 2 + log_deviation + math.log(2 * math.pi) / 2
    return (math.log(2) - surprise).sum(1).mean()


class Information(Term):
    """Keep codes readable in images: the negated bound of InfoGAN (Chen et al. 2016, Eq. 5), for both players.

    The paper minimises it over the generator and the recogniser Q, and Q is the discriminator but for its last layers.
    Here the discriminator's turn trains all of Q, body too, on made images with the discriminator's optimizer, and the
    generator's turn trains the generator alone: the same gradients, in turns, each from a verdict that is there anyway.
    As a term of the generator alone, Q's last layers would have to read features that nothing keeps telling of codes.

    Needs the prior ``Codes`` and a ``code`` head, such as ``CodeHead``, which gives logits for categorical codes and a
    mean and a spread for each continuous one.

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 1.
        every: Turns between evaluations.
        continuous: Factor of the continuous codes within the loss; the paper has it small.
        deviation: Standard deviation of the continuous codes given an image; null for what the head says (Sec. 6).
    """

    needs = frozenset({"latent"})

    def __init__(
        self, weight: float | Schedule = 1.0, every: int = 1, continuous: float = 0.1, deviation: float | None = None
    ) -> None:
        super().__init__(weight, every)
        if continuous < 0 or (deviation is not None and deviation <= 0):
            raise ValueError(f"continuous must be 0 or more and deviation above 0, got {continuous} and {deviation}")
        self.continuous, self.deviation = continuous, deviation

    def heads(self, module: Game) -> dict[str, int]:
        prior = cast("Adversarial", module).prior
        if not isinstance(prior, Codes):
            raise ValueError(f"Information needs codes, but the prior is {type(prior).__name__}: use latents.Codes")
        return {"code": prior.code_dim}

    def forward(self, step: Step) -> Tensor:
        prior = cast("Adversarial", step.module).prior
        assert isinstance(prior, Codes)
        one_hots, continuous = prior.split(step.latent)
        sizes = [*prior.categorical, prior.continuous, prior.continuous]
        *logits, means, spreads = torch.split(step.fake_verdict.heads["code"], sizes, dim=1)
        found = [categorical_information(x, code) for x, code in zip(logits, one_hots, strict=True)]
        if prior.continuous:
            spreads = spreads if self.deviation is None else torch.full_like(means, math.log(self.deviation))
            found.append(self.continuous * continuous_information(means, spreads, continuous))
        return -torch.stack(found).sum()
