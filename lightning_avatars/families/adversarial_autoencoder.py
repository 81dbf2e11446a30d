"""Adversarial training of autoencoders: VQGAN (Esser et al. 2021) and VAE-GAN (Larsen et al. 2016)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.adversarial import Adversarial, LatentStep
from lightning_avatars.families.base import OWN_LABELS, EvaluationSet
from lightning_avatars.families.step import Player, Step
from lightning_avatars.images import to_float
from lightning_avatars.latents import Gaussian
from lightning_avatars.networks.autoencoder import Autoencoder, QuantizedAutoencoder, Reconstruction
from lightning_avatars.networks.base import Verdict
from lightning_avatars.networks.layers.quantizers import quantizers_of
from lightning_avatars.seeding import Draws

SHOWN = 32  # pictures of a preview


class ReconstructionStep(LatentStep):
    """A turn in which the fake is what the autoencoder makes of the real image."""

    module: AdversarialAutoencoder
    offers = frozenset({"target", "reconstruction"})
    handed_over = ("latent", "reconstruction", "drawn", "respected")

    @cached_property
    def target(self) -> Tensor:
        return self.batch["image"]

    @cached_property
    def reconstruction(self) -> Reconstruction:
        with self.graph():
            found: Reconstruction = self.module.generator(self.target, self.labels)
        if found.output.shape != self.target.shape:
            raise ValueError(
                f"{type(self.module.generator).__name__} makes {' x '.join(map(str, found.output.shape[1:]))} numbers "
                f"of images {' x '.join(map(str, self.target.shape[1:]))}; here its output must be an image: set "
                "parameters_per_channel to 1, and resolution and channels to the data's"
            )
        return found._replace(
            output=found.output.float(),
            rates=[rate.float() for rate in found.rates],
            losses={name: loss.float() for name, loss in found.losses.items()},
        )

    @cached_property
    def made(self) -> Tensor:
        return self.reconstruction.output

    @cached_property
    def respected(self) -> Tensor:
        """Reconstructions whose gradients end at the latents (VAE-GAN, Sec. 2.4)."""
        with torch.no_grad():
            latents = self.module.generator.encode(self.target, self.labels)
        return self.decoded(latents)

    @cached_property
    def drawn(self) -> Tensor:
        """Images of latents from the prior."""
        return self.decoded(self.module.generator.from_normal(self.latent))

    def decoded(self, latents: Tensor) -> Tensor:
        with self.graph():
            output: Tensor = self.module.generator.decode(latents, self.labels)
        return output.float()

    def verdict_on(self, images: Tensor, name: str) -> Verdict:
        """Ask the discriminator about fakes, which get gradients in the generator's turn alone."""
        return self.judge(images if self.player == "generator" else images.detach(), f"{self.player}/{name}")

    @cached_property
    def drawn_verdict(self) -> Verdict:
        return self.verdict_on(self.drawn, "drawn")

    @cached_property
    def reconstruction_verdict(self) -> Verdict:
        """What the discriminator says of reconstructions, for the game alone."""
        if self.module.encoder_plays:
            return self.fake_verdict
        return self.verdict_on(self.respected, "fake")


class AdversarialAutoencoder(Adversarial):
    """An autoencoder whose images a discriminator must take for real ones.

    The game is ``Adversarial``'s, in which the fakes are reconstructions of the real images, and what autoencoders have
    beside are terms: ``terms.reconstruction``, ``terms.perceptual``, ``terms.features`` and ``terms.bottleneck``.
    ``terms.balance.AdaptiveWeight`` is VQGAN's weight, and a late start is an ``adversarial_weight`` that is 0 at
    first. Reconstructions and samples come from averaged weights, without noise.

    Departure from VAE-GAN: the means over reconstructions and over samples are weighed by ``samples``, where the paper
    sums them; with ``encoder_plays: false`` the reconstructions that are judged have no noise.

    Args:
        generator: Turns images into latents and back; its output is an image.
        samples: Share of images of latents from the prior, beside reconstructions, in the adversarial losses: from 0
            to below 1. VAE-GAN has them, VQGAN does not.
        encoder_plays: Whether the encoder too learns from the discriminator's verdict. VAE-GAN keeps it out (Sec. 2.4),
            VQGAN does not.
        kwargs: Of ``Adversarial``.
    """

    step_class = ReconstructionStep
    encodes = True
    generator: Autoencoder

    def __init__(
        self,
        generator: Autoencoder,
        samples: float = 0.0,
        encoder_plays: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if not 0 <= samples < 1:
            raise ValueError(f"samples is a share of the adversarial losses, from 0 to below 1, got {samples}")
        super().__init__(generator=generator, **kwargs)
        self.drawn_share, self.encoder_plays = samples, encoder_plays

    def check(self) -> None:
        if not isinstance(self.generator, Autoencoder):
            raise ValueError(
                f"{type(self).__name__} trains autoencoders, but generator is a {type(self.generator).__name__}, which "
                "has no encoder: give one, such as lightning_avatars.networks.vqgan.VQGAN, or use Adversarial"
            )
        if not isinstance(self.prior, Gaussian):
            raise ValueError(
                "autoencoders make their latents of standard normal numbers, but prior is "
                f"{type(self.prior).__name__}: leave it out"
            )
        super().check()
        for player, terms in self.terms.items():
            for name, term in terms.items():
                if "latent" in term.differentiates:
                    raise ValueError(
                        f"{player}_terms.{name}: {type(term).__name__} differentiates a generator by its latent "
                        "vectors, of which reconstructions are not made: leave it out"
                    )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, FaceData) and isinstance(self.generator, QuantizedAutoencoder):
            for quantizer in quantizers_of(self.generator):
                quantizer.check(len(data.store.split("train")), math.prod(self.generator.places))

    # --- what others rely on

    def latents(self, seeds: Tensor) -> Tensor:
        noise = super().latents(seeds)
        with self.sampling() as network:
            latents: Tensor = network.from_normal(noise)
        return latents

    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        with self.sampling() as network:
            if truncation_psi != 1:
                latents = network.from_normal(torch.zeros_like(latents)).lerp(latents, truncation_psi)
            images: Tensor = network.decode(latents, labels)
        return images

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.sampling() as network:
            latents: Tensor = network.encode(images.contiguous(memory_format=self.memory_format), labels)
        return latents

    def reconstruct(self, batch: Batch) -> Tensor:
        """Encode and decode pictures, without noise: N C H W, about in [-1, 1]."""
        labels = batch["labels"] if self.conditional else None
        return self.decode(self.encode(to_float(batch["image"]), labels), labels)

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        made, labels = self.reconstruct(batch), OWN_LABELS if self.conditional else None
        return {"reconstruction": EvaluationSet(made, batch["image"], mask=batch.get("mask"), labels=labels)}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        some = Batch({name: values[:SHOWN] for name, values in batch.items()})
        pairs = torch.stack([to_float(some["image"]), self.reconstruct(some)], 1).flatten(0, 1)
        return super().preview(batch) | {"reconstructions": pairs}

    def rates(self, batch: Batch, draws: Draws) -> list[Tensor]:
        image = to_float(batch["image"]).contiguous(memory_format=self.memory_format)
        with self.sampling() as network:
            made: Reconstruction = network(image, batch["labels"] if self.conditional else None)
        return made.rates

    def word_counts(self, batch: Batch) -> Tensor | None:
        if not isinstance(self.generator, QuantizedAutoencoder):
            return None
        image = to_float(batch["image"]).contiguous(memory_format=self.memory_format)
        with self.sampling() as network:
            codes: Tensor = network.encode_codes(image, batch["labels"] if self.conditional else None)
        return torch.bincount(codes.flatten(), minlength=self.generator.codebook)

    # --- training

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for quantizer in quantizers_of(self.generator):
            quantizer.seed = self.seed  # which a run that goes back has raised by now

    @property
    def noise_rank(self) -> int:
        return 0  # bottlenecks draw for all processes' images and take their own

    def adversarial_loss(self, player: Player, step: Step) -> Tensor:
        assert isinstance(step, ReconstructionStep)
        loss = self.compare(player, step, step.reconstruction_verdict)
        return loss.lerp(self.compare(player, step, step.drawn_verdict), self.drawn_share) if self.drawn_share else loss

    def log_latest(self) -> None:
        for quantizer in quantizers_of(self.generator):
            self.latest |= {"codebook/perplexity": quantizer.perplexity(), "codebook/alive": quantizer.alive()}
        super().log_latest()
