"""Penalties on how fast the discriminator's output changes with its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.game import Game
    from lightning_avatars.families.step import Step


def squared_gradient(outputs: list[Tensor], inputs: Tensor) -> Tensor:
    """Squared norm of each image's gradient, N, in float32; outputs of one image may only depend on that image."""
    with torch.autocast(inputs.device.type, enabled=False):  # would cast what the networks do in float32
        (gradient,) = torch.autograd.grad([x.sum() for x in outputs], inputs, create_graph=True)
        return gradient.float().square().flatten(1).sum(1)


class R1(Term):
    """Half the squared gradient at real images (Mescheder et al. 2018, Eq. 9)."""

    player = "discriminator"
    differentiates = ("real",)

    def forward(self, step: Step) -> Tensor:
        return squared_gradient(step.real_verdict.logits, step.real).mean() / 2


class R2(Term):
    """Half the squared gradient at made images (Mescheder et al. 2018, Eq. 10)."""

    player = "discriminator"
    differentiates = ("fake",)

    def forward(self, step: Step) -> Tensor:
        return squared_gradient(step.fake_verdict.logits, step.fake).mean() / 2


class GradientPenalty(Term):
    """Squared distance of the gradient's norm from ``target`` between real and made images (WGAN-GP, Eq. 3).

    A discriminator with labels is given those of the real images, also where others were asked of the made ones. It may
    have no batch norm: the norm is that of one image's gradient, which other images then have a part in (Sec. 4).

    Args:
        weight: Factor of the loss, or a schedule of it; the paper's is 10.
        every: Turns between evaluations.
        target: The norm that is asked for.
    """

    player = "discriminator"
    differentiates = ("between",)

    def __init__(self, weight: float | Schedule = 10.0, every: int = 1, target: float = 1.0) -> None:
        super().__init__(weight, every)
        self.target = target

    def check(self, module: Game) -> None:
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.discriminator.modules()):
            raise ValueError(
                "a gradient penalty can't meet batch norm, through which an image's gradient is also that of others: "
                "give the discriminator another normalization, such as "
                "lightning_avatars.networks.layers.normalization.LayerNorm2d, or use R1"
            )

    def forward(self, step: Step) -> Tensor:
        t = step.draws.uniform("gradient_penalty", 1, 1, 1)
        x = torch.lerp(step.real.detach(), step.fake.detach(), t).requires_grad_()
        norm = (squared_gradient(step.judge(x, "between").logits, x) + 1e-12).sqrt()  # sqrt has no slope at 0
        return (norm - self.target).square().mean()
