"""What a bottleneck between encoder and decoder asks for: its own losses, and few nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step


class Commitment(Term):
    """The losses that the bottleneck brings, summed: a codebook's commitment (VQ-VAE, van den Oord et al. 2017, Eq. 3).

    They have their own weights; a bottleneck without any adds nothing.

    Args:
        weight: Factor of the losses, or a schedule of it.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"reconstruction"})

    def forward(self, step: Step) -> Tensor | None:
        losses = list(step.reconstruction.losses.values())
        return torch.stack(losses).sum() if losses else None


class Rate(Term):
    """Nats of the latents for each number of the image: a VAE's Kullback-Leibler divergence (Kingma and Welling 2014).

    Beside a mean over pixels such as L1 and L2, a weight means what it does where both are sums over an image:
    1e-6 is latent diffusion's (Rombach et al. 2022, Sec. G).

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"reconstruction"})

    def forward(self, step: Step) -> Tensor | None:
        rates = step.reconstruction.rates
        return torch.stack(rates).sum(0).mean() / step.real[0].numel() if rates else None
