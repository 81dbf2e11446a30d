"""Adversarial training: every game of a generator against a discriminator that starts from noise."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import LatentModule
from lightning_avatars.families.game import Game
from lightning_avatars.families.step import Step
from lightning_avatars.latents import Codes, Gaussian, Prior
from lightning_avatars.networks.autoencoder import Autoencoder
from lightning_avatars.networks.base import Discriminator, Generator
from lightning_avatars.networks.style import StyleGenerator
from lightning_avatars.objectives.adversarial import Objective


class LatentStep(Step):
    """A turn in which the fake is made of latent vectors."""

    module: Adversarial
    offers = frozenset({"latent"})
    handed_over = ("latent", "made")

    @cached_property
    def latent(self) -> Tensor:
        dim, prior = self.module.generator.latent_dim, self.module.prior
        return self.leaf("latent", self.draws.take(self.stream, lambda n, g: prior.draw(n, dim, g)))

    @cached_property
    def made(self) -> Tensor:
        with self.graph():
            return self.run(self.module.generator, self.latent, self.labels, "latent" in self.differentiates)


class Adversarial(Game, LatentModule):
    """A generative adversarial network, whose generator starts from noise.

    Args:
        generator: Makes images from latent vectors, and from labels where it is conditional.
        discriminator: Judges images.
        objective: What the two minimise.
        prior: Distribution of the latent vectors; standard normal by default.
        kwargs: Of ``Game``.
    """

    step_class: type[Step] = LatentStep

    def __init__(
        self,
        generator: Generator | Autoencoder,
        discriminator: Discriminator,
        objective: Objective,
        prior: Prior | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(generator=generator, discriminator=discriminator, objective=objective, **kwargs)
        self.prior = prior or Gaussian()
        self.check()

    def check(self) -> None:
        self.prior.check(self.generator.latent_dim)
        mixes = isinstance(self.generator, StyleGenerator) and self.generator.style_mixing > 0
        if mixes and not isinstance(self.prior, Gaussian):
            raise ValueError(
                f"style mixing draws normal latents, but prior is {type(self.prior).__name__}: set style_mixing to 0"
            )
        super().check()
        if isinstance(self.prior, Codes) and "code" not in self.discriminator.heads:
            raise ValueError(
                "the prior's Codes would tell nobody anything: give the discriminator a CodeHead and both players an "
                "Information term, as infogan has, or use the prior Gaussian"
            )

    # --- what others rely on

    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        with self.sampling() as generator:
            images: Tensor = generator.truncated(latents, labels, truncation_psi)
        return images

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"samples": self.sample(torch.arange(64))}
