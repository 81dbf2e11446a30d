"""Models that draw images word by word: a network of sequences learns the codes of a trained autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch, mirrored
from lightning_avatars.data.codes import Codes, cached_codes
from lightning_avatars.ema import Average
from lightning_avatars.families.base import GenerativeModule, LatentModule, check_conditional, check_whole
from lightning_avatars.first_stage import load_first_stage
from lightning_avatars.images import to_float
from lightning_avatars.memory import Need, of_activations, of_weights
from lightning_avatars.networks.sequence import SequenceNetwork, TokenSampling, log_likelihood
from lightning_avatars.networks.transformer import Transformer
from lightning_avatars.schedules import Schedule
from lightning_avatars.seeding import uniform_at

BLOCK = 64  # images whose codes are drawn at a time: always as many, for with others sums are rounded otherwise


class Autoregressive(GenerativeModule):
    """A prior over the codes of a first stage, which it turns into a generator (VQ-VAE, Sec. 3.2; VQGAN, Sec. 3.2).

    The first stage is frozen. Its weights and configuration are part of this module's checkpoints and exported weights,
    so that one file is enough to sample. The codes of training pictures are computed once and kept in the cache, those
    of mirrored pictures too where the data mirrors; where it cuts squares out of them (``data.crop_from``), those of
    each batch are computed anew.

    Args:
        first_stage: Checkpoint or exported weights of an autoencoder with a codebook, such as one of ``vqvae`` or
            ``vqgan``, which must be given; in Python also the module.
        network: Makes the network of sequences from the number of words and of codes in an image.
        sampling: How codes are drawn; by default with the network's own probabilities.
        optimizer: Makes the optimizer; parameters that are no matrices are given to it with no weight decay.
        learning_rate: Learning rate over images; the optimizer's own by default.
        conditional: Whether the network is given the labels.
        label_dropout: Share of the images whose labels are zeros, so that the network learns to draw without labels
            too; guidance needs it.
        average_half_life: Half-life in images of the network's average, which makes all samples; null for none.
        seed: Seed of every draw that training makes.
    """

    def __init__(
        self,
        first_stage: Path | LatentModule | None = None,
        network: Callable[[int, int], SequenceNetwork] = Transformer,
        sampling: TokenSampling | None = None,
        optimizer: OptimizerCallable = AdamW,
        learning_rate: Schedule | None = None,
        conditional: bool = False,
        label_dropout: float = 0.0,
        average_half_life: float | Schedule | None = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if first_stage is None:
            raise ValueError(
                "a prior learns the codes of a first stage: give --model.first_stage a checkpoint or exported "
                "weights of an autoencoder with a codebook, such as one that vqvae or vqgan trained on the same data"
            )
        self.first_stage, self.first_stage_config = load_first_stage(first_stage)
        self.network = network(self.first_stage.network.codebook, self.first_stage.places)
        self.average = None if average_half_life is None else Average(self.network, average_half_life)
        self.averaged = self.average is not None
        self.sampling = sampling or TokenSampling()
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.conditional, self.label_dropout = conditional, label_dropout
        self.images_averaged = 0  # up to which the average has followed
        self.codes: Codes | None = None  # of the training pictures, and then mirrored where the data is
        self.check()
        labels = torch.zeros(1, self.first_stage.network.label_dim)
        self.image_shape = self.first_stage.decode(torch.zeros(1, self.first_stage.places).long(), labels).shape[1:]

    def check(self) -> None:
        """Raise a ValueError where the parts do not go together, before any training."""
        network, first = self.network, self.first_stage
        if (network.vocabulary, network.length) != (first.network.codebook, first.places):
            raise ValueError(
                f"the first stage has {first.network.codebook} words and {first.places} codes in an image, but "
                f"{type(network).__name__} is for {network.vocabulary} and {network.length}: leave both out"
            )
        check_conditional(self.conditional, network)
        if first.network.label_dim not in (0, network.label_dim):
            raise ValueError(
                f"the first stage takes label vectors of length {first.network.label_dim}, and the prior of "
                f"{network.label_dim}: set conditional: true and use data with the same labels"
            )
        if self.label_dropout and not self.conditional:
            raise ValueError("label_dropout is a share of images with labels, and conditional is false: set it to true")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout is a share in [0, 1) of images with labels, got {self.label_dropout}")
        if self.sampling.guidance != 1 and not self.label_dropout:
            raise ValueError(
                f"sampling.guidance is {self.sampling.guidance}, which needs a network that learns to draw without "
                "labels too: set conditional: true and a label_dropout such as 0.1, or guidance to 1"
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.averaged:
            check_whole(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FaceData):
            return
        shape = (data.channels, data.resolution, data.resolution)
        if tuple(self.image_shape) != shape:
            raise ValueError(
                f"the first stage makes images of {by(self.image_shape)}, but the data has {by(shape)} (channels x "
                "height x width): train the first stage on data like this, or give data like it was trained on"
            )

    # --- what others rely on

    @property
    def sampler(self) -> SequenceNetwork:
        """The network that makes samples: the averaged one where there is an average."""
        return self.average.average if self.average is not None else self.network

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        if truncation_psi != 1:
            raise ValueError(
                f"{type(self).__name__} has no truncation: leave truncation_psi at 1, and set temperature, top_k or "
                "nucleus instead"
            )
        if self.conditional:
            labels = self.draw_labels(seeds) if labels is None else labels.to(self.device)
        images = []
        for rows in torch.arange(len(seeds)).split(BLOCK):
            padded = torch.cat([rows, rows[-1:].expand(BLOCK - len(rows))])
            given = labels[padded.to(self.device)] if self.conditional and labels is not None else None
            codes = self.draw(seeds[padded.to(seeds.device)], given)[: len(rows)]
            images.append(self.first_stage.decode(codes, None if given is None else given[: len(rows)]))
        return torch.cat(images) if images else torch.zeros(0, *self.image_shape, device=self.device)

    def draw(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Draw the codes of one image for each seed, N x places; each has a random number of its own."""
        places = np.arange(self.first_stage.places)
        uniforms = uniform_at(0, "codes", seeds.cpu().numpy()[:, None] * len(places) + places)
        drawn = torch.from_numpy(uniforms).to(self.device, torch.float32 if self.device.type == "mps" else None)
        network = self.sampler
        training = network.training
        with torch.autocast(self.device.type, enabled=False):
            codes = self.sampling.draw(network.eval(), drawn, labels)
        network.train(training)
        return codes

    def sampling_facts(self) -> dict[str, float | None]:
        return dict(vars(self.sampling))

    def sampling_state(self) -> dict[str, Tensor]:
        parts = {"network": self.sampler, "first_stage": self.first_stage}
        return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}

    def load_sampling_state(self, tensors: dict[str, Tensor]) -> None:
        networks = (self.network, *([self.average.average] if self.average is not None else []))
        for prefix, modules in (("network.", networks), ("first_stage.", (self.first_stage,))):
            weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for module in modules:
                module.load_state_dict(weights)

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"samples": self.sample(torch.arange(64))}

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"images_averaged": self.images_averaged}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.images_averaged = state["images_averaged"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        config = checkpoint["config"]
        if config and self.first_stage_config:  # it describes the first stage, whose file need not be there later
            model = config["model"] | {
                "init_args": config["model"]["init_args"] | {"first_stage": self.first_stage_config}
            }
            checkpoint["config"] = config | {"model": model}

    # --- training

    def configure_optimizers(self) -> Optimizer:
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        matrices, others = ([p for p in parameters if (p.ndim > 1) == wide] for wide in (True, False))
        return self.optimizer([{"params": matrices}, {"params": others, "weight_decay": 0.0}])

    def memory_need(self, images: int, channels: int, resolution: int) -> Need:
        codes = torch.zeros(images, self.first_stage.places, dtype=torch.int64, device=self.device)
        labels = torch.zeros(images, self.network.label_dim, device=self.device)

        def look() -> None:
            with self.trainer.precision_plugin.forward_context():
                held.append(log_likelihood(self.network, codes, labels if self.conditional else None))

        held: list[Tensor] = []
        return Need(of_weights(self), of_activations(look))

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FaceData) or data.crop_from is not None:  # codes of each batch are computed anew
            self.codes = None
            return
        store, sides = data.store, 2 if data.horizontal_flip else 1
        self.places = store.split("train")

        def describe(where: slice) -> Tensor:
            index = self.places[where]
            images = to_float(torch.from_numpy(store.read(index)).to(self.device))
            labels = torch.from_numpy(store.labels[index]).to(self.device)
            both = (images, images.flip(-1))[:sides]
            return torch.stack([self.first_stage.encode(side, labels) for side in both], 1)

        facts: dict[str, object] = {"data": store.key, "split": "train", "first_stage": self.first_stage.fingerprint()}
        shape, words = (sides, self.first_stage.places), self.first_stage.network.codebook
        writes = self.trainer.local_rank == 0
        self.codes = cached_codes(facts, len(self.places), shape, words, describe, self.device, writes)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.codes is None or not self.trainer.training:
            return batch
        row = np.searchsorted(self.places, batch["index"].numpy())
        local, data = len(row), self.trainer.datamodule
        position = self.images_seen + self.global_rank * local + np.arange(local)
        side = mirrored(data.seed, position).astype(np.int64) if data.horizontal_flip else 0
        return batch | {"codes": torch.from_numpy(self.codes[row, side].astype(np.int64))}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.begin(batch)
        labels = batch["labels"] if self.conditional else None
        codes = batch["codes"] if "codes" in batch else self.first_stage.encode(to_float(batch["image"]), labels)
        if labels is not None and self.label_dropout:
            labels = labels * (draws.uniform("label_dropout", 1) >= self.label_dropout)
        loss = -log_likelihood(self.network, codes, labels).mean()
        self.images_seen += draws.total
        self.latest["train/loss"] = loss.detach()
        self.log_latest()
        return loss

    def optimizer_step(self, *arguments: object, **named: object) -> None:
        super().optimizer_step(*arguments, **named)
        if self.average is not None:
            batch = self.images_seen - self.images_averaged
            self.average.update(self.network, batch, self.images_before + self.images_seen)
        self.images_averaged = self.images_seen

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "test")

    def score(self, batch: Batch, stage: str) -> None:
        """Log how many bits a code takes, and with it a number of the image, by the network that makes samples."""
        labels = batch["labels"] if self.conditional else None
        codes = self.first_stage.encode(to_float(batch["image"]), labels)
        bits = -log_likelihood(self.sampler, codes, labels).mean() / log(2)
        per_dimension = bits * self.first_stage.places / self.image_shape.numel()
        scores = {f"{stage}/bits_per_code": bits, f"{stage}/bits_per_dimension": per_dimension}
        self.log_dict(scores, batch_size=len(codes), sync_dist=True)
        self.log_clock()


def by(size: torch.Size | tuple[int, ...]) -> str:
    """Write a size as ``3 x 64 x 64``."""
    return " x ".join(map(str, size))
