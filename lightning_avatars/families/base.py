"""The contract of every family: all that metrics, callbacks, tools and tests may rely on."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.images import to_bytes
from lightning_avatars.latents import Gaussian, Prior
from lightning_avatars.memory import Need
from lightning_avatars.networks.autoencoder import Autoencoder
from lightning_avatars.networks.base import Discriminator, Generator
from lightning_avatars.networks.sequence import SequenceNetwork
from lightning_avatars.schedules import Schedule
from lightning_avatars.seeding import Draws, reseed, uniform_at

LABEL_ROWS = 4096  # training pictures whose labels a checkpoint keeps


def check_precision(precision: object) -> None:
    """Raise a ValueError where all weights would be of half precision, as Lightning's ``trainer.precision`` names it.

    An average moves by less than a thousandth of a weight with each batch, and late steps of optimizers are as small:
    eight bits hold neither, and samples would come from the weights that training began with.
    """
    if precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision {precision} rounds the weights themselves, by more than averages and late steps of "
            "optimizers move them: set it to bf16-mixed, which computes as fast, or to 32-true"
        )


def check_whole(strategy: Strategy) -> None:
    """Raise a ValueError where weights would be in pieces, which averages can't follow."""
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise ValueError(
            f"{type(strategy).__name__} cuts weights into pieces, which an average can't follow: set average_half_life "
            "to null, or use the strategy ddp"
        )


def check_conditional(conditional: bool, network: Generator | Discriminator | Autoencoder | SequenceNetwork) -> None:
    """Raise a ValueError where a network takes labels that nobody gives, or is given some that it does not take."""
    if conditional == (network.label_dim > 0):
        return
    hint = "set conditional: true, or label_dim to 0"
    if conditional:
        hint = (
            "use data with labels (`lightning-avatars data` shows which there are), or a model that is not conditional"
        )
    name = type(network).__name__
    raise ValueError(
        f"conditional is {conditional}, but {name} takes label vectors of length {network.label_dim}: {hint}"
    )


OWN_LABELS = "the pictures' own"  # as passports say where labels came from


class EvaluationSet(NamedTuple):
    """Images that a module makes of a batch of real pictures, and what they are scored against."""

    images: Tensor  # N C H W, about in [-1, 1]: one for each picture of the batch, or for some; there may be none
    target: Tensor | None = None  # bytes, N C H W: what each of them should be (reconstruction, paired translation)
    reference: Tensor | None = None  # bytes, M C H W: what they should be like as a set; by default the targets
    source: Tensor | None = None  # bytes, N C H W: what they were made of, scored too to tell what translation gains
    mask: Tensor | None = None  # bytes, N 1 H W: label maps of the targets, whose parts the images should show
    labels: str | None = None  # where the labels came from that the images were made with, for passports


class FaceModule(LightningModule):
    """A module whose time is counted in images and that knows its labels by name.

    Args:
        seed: Seed of every draw that training makes.
    """

    learning_rate: Schedule | None = None  # over images, of the only optimizer; its own where there is none

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.images_seen = 0  # over all processes
        self.images_before = 0  # that the weights which this run began with had seen
        self.label_names: list[str] = []
        self.domain_names: list[str] = []  # of pictures of several kinds, between which it translates
        self.mask_names: list[str] = []  # classes of label maps that it translates
        self.source_channels = 0  # of pictures of pairs that it translates
        self.label_rows = torch.zeros(0, 0)  # of some training pictures, to draw labels from
        self.latest: dict[str, Tensor] = {}  # losses of the newest batches by name, detached
        self.config: dict[str, Any] | None = None  # what the command line built this module from

    def setup(self, stage: str) -> None:
        check_precision(self.trainer.precision)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, FaceData):
            self.label_names, self.domain_names = data.label_names, data.domain_names
            self.mask_names, self.source_channels = data.mask_names, data.source_channels
            train = data.store.split("train")
            spread = np.linspace(0, len(train) - 1, min(LABEL_ROWS, len(train))).astype(np.int64)
            self.label_rows = torch.from_numpy(data.store.labels[train[spread]])

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "images_seen": self.images_seen,
            "images_before": self.images_before,
            "label_names": self.label_names,
            "label_rows": self.label_rows,
            "domain_names": self.domain_names,
            "mask_names": self.mask_names,
            "source_channels": self.source_channels,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.images_seen, self.images_before = state["images_seen"], state.get("images_before", 0)
        self.label_names, self.label_rows = state["label_names"], state["label_rows"]
        self.domain_names, self.mask_names = state.get("domain_names", []), state.get("mask_names", [])
        self.source_channels = state.get("source_channels", 0)

    def memory_need(self, images: int, channels: int, resolution: int) -> Need | None:
        """Estimate what training on batches of so many images of a process takes; None where that is not known."""
        return None

    @property
    def noise_rank(self) -> int:
        """Number by which what networks draw inside themselves differs between processes."""
        return self.global_rank

    def begin(self, batch: Batch) -> Draws:
        """Reseed what networks draw inside themselves, and return the random numbers of a training batch's images."""
        reseed(self.seed, self.noise_rank, self.images_seen, self.device)
        local, world = len(batch["image"]), self.trainer.world_size
        start = self.global_rank * local
        return Draws(self.seed, self.images_seen, local * world, start, start + local, self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.learning_rate is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.learning_rate(self.images_seen)

    def log_latest(self) -> None:
        """Log the latest losses when the loggers' turn has come: Lightning needs half a millisecond for each number."""
        every = self.trainer.log_every_n_steps
        if every and (self.trainer.fit_loop.total_batch_idx + 1) % every == 0:
            self.log_dict(self.latest)
            self.log_clock()

    def log_clock(self) -> None:
        """Make images seen the axis of what a training run logs with it."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.log("step", float(self.images_seen), batch_size=1, reduce_fx="max")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config


class GenerativeModule(FaceModule):
    """A module that makes images."""

    conditional = False  # whether images are made from labels
    label_dropout = 0.0  # share of the training images whose labels are zeros, as without labels
    samples = True  # whether it can draw images from nothing, as ``sample`` does; translation needs a picture
    averaged = False  # whether samples come from averaged weights

    @property
    def directions(self) -> dict[str, tuple[int, int]]:
        """Return the ways between domains, by the names of their evaluation sets: from which to which number."""
        return {}

    @abstractmethod
    def sample(self, seeds: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Draw one image per seed with the averaged weights.

        Args:
            seeds: Whole numbers, N; the same seed is the same latent vector on every machine and in every batch.
            labels: Label vectors, N L, for conditional modules; by default one training picture's labels per seed.
            truncation_psi: Share of the latent's distance from the mean that is kept, where the network can do that.

        Returns:
            Images, N C H W, about in [-1, 1].
        """

    @abstractmethod
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Make named sets of images to look at, N C H W, about in [-1, 1]."""

    def evaluation_sets(self, batch: Batch) -> dict[str, EvaluationSet]:
        """Make what is scored, beside samples, of a batch on this module's device.

        Sets have names such as ``reconstruction`` or ``a_to_b``, the same for every batch. Families that only sample
        have nothing here.
        """
        return {}

    def log_weights(self, batch: Batch, samples: int, draws: Draws) -> Tensor | None:
        """Weigh latents that are drawn for each picture of a batch, without gradients.

        Their mean is the evidence lower bound, the logarithm of their exponentials' mean the importance-weighted one.
        All samples are decoded at once: who wants more asks again, with the same draws.

        Args:
            batch: Real pictures, on this module's device.
            samples: Latents z ~ q(z | x) for each picture, independent of each other; drawn by torch's generators,
                which the caller seeds, and the same on any process.
            draws: What pictures become binary by, and nothing else.

        Returns:
            ln p(x | z) + ln p(z) - ln q(z | x) in nats over all pixels, N x samples; None where there is no likelihood.
        """
        return None

    def rates(self, batch: Batch, draws: Draws) -> list[Tensor]:
        """Return the nats that each level of latents takes, KL(q(z | x) || p(z)), N each; none without a prior."""
        return []

    def likelihood_facts(self) -> dict[str, str]:
        """Say what log_weights depend on, for passports.

        ``likelihood``: its name; ``of``: ``bytes``, ``bits`` (binarised pictures) or ``density`` (of real numbers,
        which has no bits per dimension); ``binarisation``: how pixels became 0 or 1, where they did.
        """
        return {}

    def word_counts(self, batch: Batch) -> Tensor | None:
        """Count how often the codes of a batch use each word of the codebook, whole numbers, K; None without one."""
        return None

    def sampling_facts(self) -> dict[str, float | None]:
        """Say what ``sample`` depends on beside weights, seeds, labels and truncation, for passports."""
        return {}

    def sampling_state(self) -> dict[str, Tensor]:
        """Return the tensors that ``sample`` needs, by name, for export."""
        return {name: t for name, t in self.state_dict().items() if isinstance(t, Tensor)}

    def load_sampling_state(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors of ``sampling_state``."""
        self.load_state_dict(tensors, strict=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        labels = batch["labels"] if self.conditional else None
        return {"image": to_bytes(self.sample(batch["index"], labels))}

    def draw_labels(self, seeds: Tensor) -> Tensor:
        """Draw one training picture's labels per seed, N L: the data's own joint distribution."""
        if not len(self.label_rows):
            raise ValueError("this module has seen no labels to draw from: give labels, or train it on labelled data")
        row = uniform_at(0, "labels", seeds.cpu().numpy()) * len(self.label_rows)
        return self.label_rows[torch.from_numpy(row).long()].to(self.device)


class LatentModule(GenerativeModule):
    """A module whose images are a function of latent vectors, which can be explored."""

    prior: Prior
    encodes = False  # whether it finds the latents of given images

    @property
    @abstractmethod
    def sampler(self) -> Generator | Autoencoder:
        """The network that makes samples: the averaged one where there is an average."""

    @property
    def normal(self) -> bool:
        """Whether latents are standard normal; of autoencoders, some only make them of such numbers."""
        network = self.sampler
        return isinstance(self.prior, Gaussian) and (network.normal if isinstance(network, Autoencoder) else True)

    def latents(self, seeds: Tensor) -> Tensor:
        """Draw one latent vector per seed, N D."""
        return self.prior.of_seeds(seeds, self.sampler.latent_dim).to(self.device)

    @abstractmethod
    def decode(self, latents: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """Make an image of each latent vector, N D, as ``sample`` does: N C H W, about in [-1, 1]."""

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Find the latent vectors, N D, that ``decode`` makes images' likeness of, where the module ``encodes``.

        Args:
            images: N C H W in [-1, 1].
            labels: Label vectors, N L, of these images, for conditional modules.
        """
        raise ValueError(
            f"{type(self).__name__} makes pictures from latents, but can't find the latents of a given picture: use "
            "an autoencoder, such as vae"
        )

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        if self.conditional:
            labels = self.draw_labels(seeds) if labels is None else labels.to(self.device)
        return self.decode(self.latents(seeds), labels, truncation_psi)
