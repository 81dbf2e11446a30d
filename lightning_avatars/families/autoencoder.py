"""Training of autoencoders: plain ones, variational ones, and those with a codebook."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Adam, Optimizer

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.ema import Average
from lightning_avatars.families.base import OWN_LABELS, EvaluationSet, LatentModule, check_conditional, check_whole
from lightning_avatars.images import to_float
from lightning_avatars.latents import Gaussian
from lightning_avatars.memory import Need, of_activations, of_weights
from lightning_avatars.networks.autoencoder import Autoencoder, QuantizedAutoencoder, Reconstruction
from lightning_avatars.networks.layers.quantizers import quantizers_of
from lightning_avatars.objectives.likelihoods import Likelihood
from lightning_avatars.schedules import Schedule, value_at
from lightning_avatars.seeding import Draws, seeded

LOOKED_AT = 64  # training pictures that the likelihood is checked with before training


class Autoencoding(LatentModule):
    """An autoencoder trained for the likelihood of its images and the rate of its latents.

    The loss is ``(distortion + kl_weight * rate) / numbers of an image``, and what the bottleneck wants minimised
    beside it: distortion is minus the logarithm of the likelihood, the rate is the KL divergence of the latents from
    their prior, both in nats. With ``kl_weight`` 1 that is the evidence lower bound (Kingma and Welling 2014, Eq. 2),
    with others beta-VAE (Higgins et al. 2017, Eq. 4). Bottlenecks without a prior have no rate.

    Optimisation is Lightning's: so are ``trainer.gradient_clip_val`` and ``trainer.accumulate_grad_batches``, where a
    run goes on exactly from checkpoints that fall between two steps (``run.save_every`` a multiple of their images).

    Args:
        network: Turns images into latents and back.
        likelihood: What the network's output says of images.
        optimizer: Makes the optimizer.
        learning_rate: Learning rate over images; the optimizer's own by default.
        kl_weight: Weight of the rate, also as a schedule over images.
        free_bits: Nats of each level of latents that cost nothing, as means over a batch's images (Kingma et al. 2016,
            Eq. 15, whose groups are levels here).
        conditional: Whether the network is given the labels.
        average_half_life: Half-life in images of the average of the weights, and of what the likelihood learns, which
            all images and scores come from; null for none.
        channels_last: Keep convolutions' tensors in channels-last order, which most GPUs and CPUs prefer; false where
            FSDP cuts weights, which takes contiguous ones alone.
        compile: Compile the network.
        seed: Seed of every draw that training makes.
    """

    encodes = True

    def __init__(
        self,
        network: Autoencoder,
        likelihood: Likelihood,
        optimizer: OptimizerCallable = Adam,
        learning_rate: Schedule | None = None,
        kl_weight: float | Schedule = 1.0,
        free_bits: float = 0.0,
        conditional: bool = False,
        average_half_life: float | Schedule | None = 10_000,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        self.likelihood = likelihood
        self.average = None if average_half_life is None else Average(network, average_half_life)
        self.averaged = self.average is not None
        learned = any(p.requires_grad for p in likelihood.parameters())
        self.likelihood_average = None
        if average_half_life is not None and learned:
            self.likelihood_average = Average(likelihood, average_half_life)
        self.register_load_state_dict_pre_hook(begin_average)
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.kl_weight, self.free_bits = kl_weight, free_bits
        self.conditional, self.compiled, self.prior = conditional, compile, Gaussian()
        self.images_averaged = 0  # images seen when the average moved last
        self.check()

    def check(self) -> None:
        """Raise a ValueError where the parts do not go together, before any training."""
        check_conditional(self.conditional, self.network)
        if self.free_bits < 0 or value_at(self.kl_weight, 0) < 0:
            raise ValueError(
                f"free_bits and kl_weight must be at least 0, got {self.free_bits} and {value_at(self.kl_weight, 0)}"
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.averaged:
            check_whole(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, FaceData):
            self.check_data(data)

    def check_data(self, data: FaceData) -> None:
        """Raise a ValueError where the data is not such that network and likelihood are for it."""
        train = data.store.split("train")
        some = train[:: max(len(train) // LOOKED_AT, 1)][:LOOKED_AT]
        image = to_float(torch.from_numpy(data.store.read(some)))
        self.likelihood.check(image)
        numbers = image.shape[1] * self.likelihood.parameters_per_channel
        expected = (numbers, *image.shape[2:])
        latents = torch.zeros(1, self.network.latent_dim, device=self.device)
        labels = torch.zeros(1, self.network.label_dim, device=self.device) if self.conditional else None
        given = tuple(self.quietly(self.network, lambda: self.network.decode(latents, labels)).shape[1:])
        if given != expected:
            raise ValueError(
                f"{type(self.likelihood).__name__} takes {self.likelihood.parameters_per_channel} numbers for each "
                f"channel of images {' x '.join(map(str, image.shape[1:]))}, so an output of "
                f"{' x '.join(map(str, expected))}, but {type(self.network).__name__} gives "
                f"{' x '.join(map(str, given))}: set network.parameters_per_channel, channels and resolution to fit"
            )
        if isinstance(self.network, QuantizedAutoencoder):
            for quantizer in quantizers_of(self.network):
                quantizer.check(len(train), math.prod(self.network.places))

    # --- what others rely on

    @property
    def sampler(self) -> Autoencoder:
        """The network that makes and encodes images: the averaged one where there is an average."""
        if self.average is None:
            return self.network
        averaged: Autoencoder = self.average.average
        return averaged

    @property
    def sampler_likelihood(self) -> Likelihood:
        """What the output of ``sampler`` says of images: the average where it learns and there is one."""
        if self.likelihood_average is None:
            return self.likelihood
        averaged: Likelihood = self.likelihood_average.average
        return averaged

    @torch.no_grad()
    def quietly(self, network: Autoencoder, run: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever ``run`` returns
        """Run a network as it is used, not as it is trained, in full precision."""
        training = network.training
        network.eval()
        with torch.autocast(self.device.type, enabled=False):
            found = run()
        network.train(training)
        return found

    def latents(self, seeds: Tensor) -> Tensor:
        noise = super().latents(seeds)
        return self.quietly(self.sampler, lambda: self.sampler.from_normal(noise))

    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        def run() -> Tensor:
            z = latents
            if truncation_psi != 1:
                z = self.sampler.from_normal(torch.zeros_like(z)).lerp(z, truncation_psi)
            return self.sampler_likelihood.mean(self.sampler.decode(z, labels))

        with seeded(0, self.device):
            return self.quietly(self.sampler, run)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        return self.quietly(self.sampler, lambda: self.sampler.encode(images, labels))

    def reconstruct(self, batch: Batch) -> Tensor:
        """Encode and decode pictures, without noise: N C H W in [-1, 1]."""
        labels = self.labels_of(batch)
        return self.decode(self.encode(to_float(batch["image"]), labels), labels)

    def labels_of(self, batch: Batch) -> Tensor | None:
        """Labels for the network, N L; None where it takes none."""
        return batch["labels"] if self.conditional else None

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        made, labels = self.reconstruct(batch), OWN_LABELS if self.conditional else None
        return {"reconstruction": EvaluationSet(made, batch["image"], mask=batch.get("mask"), labels=labels)}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        some = Batch({name: values[:32] for name, values in batch.items()})
        pairs = torch.stack([to_float(some["image"]), self.reconstruct(some)], 1).flatten(0, 1)
        return {"samples": self.sample(torch.arange(64)), "reconstructions": pairs}

    def log_weights(self, batch: Batch, samples: int, draws: Draws) -> Tensor | None:
        image, labels = self.target(batch, draws), self.labels_of(batch)
        image = image.repeat_interleave(samples, 0)
        labels = labels.repeat_interleave(samples, 0) if labels is not None else None
        made = self.quietly(self.sampler, lambda: self.sampler(image, labels))
        if not made.rates:
            return None
        ratio = -torch.stack(made.rates).sum(0) if made.log_ratio is None else made.log_ratio  # nothing was drawn
        with torch.no_grad():
            weights: Tensor = self.sampler_likelihood.log_mass(made.output.float(), image) + ratio
        return weights.unflatten(0, (-1, samples))

    def rates(self, batch: Batch, draws: Draws) -> list[Tensor]:
        image = self.target(batch, draws)
        made: Reconstruction = self.quietly(self.sampler, lambda: self.sampler(image, self.labels_of(batch)))
        return made.rates

    def likelihood_facts(self) -> dict[str, str]:
        return self.likelihood.facts()

    def word_counts(self, batch: Batch) -> Tensor | None:
        network = self.sampler
        if not isinstance(network, QuantizedAutoencoder):
            return None
        image = to_float(batch["image"]).contiguous(memory_format=self.memory_format)
        codes: Tensor = self.quietly(network, lambda: network.encode_codes(image, self.labels_of(batch)))
        return torch.bincount(codes.flatten(), minlength=network.codebook)

    def sampling_state(self) -> dict[str, Tensor]:
        network = {f"network.{name}": tensor for name, tensor in self.sampler.state_dict().items()}
        return network | {f"likelihood.{name}": tensor for name, tensor in self.sampler_likelihood.state_dict().items()}

    def load_sampling_state(self, tensors: dict[str, Tensor]) -> None:
        parts = {"network": {self.network, self.sampler}, "likelihood": {self.likelihood, self.sampler_likelihood}}
        for part, owners in parts.items():
            weights = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
            for owner in owners:
                owner.load_state_dict(weights)

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"images_averaged": self.images_averaged}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.images_averaged = state["images_averaged"]

    # --- training

    def configure_optimizers(self) -> Optimizer:
        parts = (self.network, self.likelihood)
        optimizer = self.optimizer([p for part in parts for p in part.parameters() if p.requires_grad])
        optimizer.register_load_state_dict_post_hook(read_scalar_moments)
        return optimizer

    def on_fit_start(self) -> None:
        for quantizer in quantizers_of(self.network):
            quantizer.seed = self.seed  # which a run that goes back has raised by now
        if self.compiled:
            self.network.compile()

    @property
    def noise_rank(self) -> int:
        return 0  # bottlenecks draw for all processes' images and cut out their own

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.begin(batch)
        image = self.target(batch, draws)
        made: Reconstruction = self.network(image, self.labels_of(batch))
        loss = self.loss(image, made)
        self.images_seen += draws.total
        self.log_latest()
        return loss

    def target(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the images that are encoded and scored, N C H W in [-1, 1]."""
        image = self.likelihood.target(to_float(batch["image"]), draws)
        return image.contiguous(memory_format=self.memory_format)

    def loss(self, image: Tensor, made: Reconstruction) -> Tensor:
        """Return what is minimised, and note its parts among the latest losses."""
        numbers = image[0].numel()
        weight = value_at(self.kl_weight, self.images_seen)
        distortion = -self.likelihood.log_prob(made.output.float(), image).mean()
        rates = [rate.mean() for rate in made.rates]
        costs = [self.costly(rate) for rate in rates] if self.free_bits else rates
        loss = (distortion + weight * sum(costs)) / numbers + sum(made.losses.values())
        self.latest |= {"train/loss": loss.detach(), "train/distortion": distortion.detach()}
        self.latest |= {f"train/{name}": value.detach() for name, value in made.losses.items()}
        if rates:
            self.latest |= {"train/rate": sum(rates).detach(), "train/kl_weight": loss.new_tensor(weight)}
        if len(rates) > 1:
            self.latest |= {f"train/rate_{level}": rate.detach() for level, rate in enumerate(rates)}
        for quantizer in quantizers_of(self.network):
            self.latest |= {"train/perplexity": quantizer.perplexity(), "train/codes_alive": quantizer.alive()}
        return loss

    def costly(self, rate: Tensor) -> Tensor:
        """Return a level's mean rate, or the free nats without a gradient where all processes' images need fewer."""
        overall = rate.detach().clone()
        if self.trainer.world_size > 1:
            dist.all_reduce(overall)
            overall /= self.trainer.world_size
        return torch.where(overall > self.free_bits, rate, rate.detach() * 0 + self.free_bits)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        images, seen = self.images_seen - self.images_averaged, self.images_before + self.images_seen
        for average, part in ((self.average, self.network), (self.likelihood_average, self.likelihood)):
            if average is not None:  # before any checkpoint of this batch
                average.update(part, images, seen)
        self.images_averaged = self.images_seen

    def memory_need(self, images: int, channels: int, resolution: int) -> Need:
        def look() -> None:
            pictures = torch.zeros(images, channels, resolution, resolution, device=self.device)
            labels = torch.zeros(images, self.network.label_dim, device=self.device) if self.conditional else None
            with self.trainer.precision_plugin.forward_context():
                made = self.network(pictures, labels)
                held.append(self.likelihood.log_prob(made.output.float(), pictures))

        held: list[Tensor] = []
        training = self.network.training
        self.network.eval()  # this process looks alone, and codebooks must not move
        try:
            return Need(of_weights(self), of_activations(look))
        finally:
            self.network.train(training)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "test")

    def score(self, batch: Batch, stage: str) -> None:
        """Log the mean distortion and rate, in nats, of pictures never trained on."""
        count, first = len(batch["image"]), int(batch["index"][0])  # batches are the same on any number of processes
        image = self.target(batch, Draws(0, first, count, 0, count, self.device))
        with seeded(first, self.device):
            made = self.quietly(self.sampler, lambda: self.sampler(image, self.labels_of(batch)))
        scores = {f"{stage}/distortion": -self.sampler_likelihood.log_prob(made.output.float(), image).mean()}
        if made.rates:
            scores[f"{stage}/rate"] = torch.stack(made.rates).sum(0).mean()
        self.log_dict(scores, batch_size=count, sync_dist=True)
        self.log_clock()


def begin_average(module: Autoencoding, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Begin the average of what a likelihood learns, where files older than that have none."""
    for name in module.likelihood_average.average.state_dict() if module.likelihood_average is not None else ():
        if f"{prefix}likelihood.{name}" in state:
            state.setdefault(f"{prefix}likelihood_average.average.{name}", state[f"{prefix}likelihood.{name}"])


def read_scalar_moments(optimizer: Optimizer) -> None:
    """Give moments of what a likelihood learns its shape, where they come from files older than that."""
    kept = [(p, name, t) for p, state in optimizer.state.items() for name, t in state.items() if isinstance(t, Tensor)]
    moments = {name for p, name, t in kept if p.ndim and t.shape == p.shape}  # and not, for one, counts of steps
    for p, name, t in kept:
        if name in moments and p.shape == (1,):
            optimizer.state[p][name] = t.reshape(1)
