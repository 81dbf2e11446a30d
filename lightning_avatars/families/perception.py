"""Training of networks that name what pictures show, to judge generated ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import FaceModule
from lightning_avatars.schedules import Schedule
from lightning_avatars.seeding import Draws

NOISE = 0.1  # largest standard deviation, of a range of 2


class Perception(FaceModule):
    """A network that learns what pictures show from images that are made imperfect as generated ones are.

    Args:
        network: Images to logits.
        optimizer: Makes the optimizer.
        learning_rate: Learning rate over images; the optimizer's own by default.
        seed: Seed of every draw that training makes.
    """

    network: Any  # what it is is the family's choice

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = AdamW,
        learning_rate: Schedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.network, self.optimizer, self.learning_rate = network, optimizer, learning_rate

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.network.parameters())

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Compare what the network makes of a batch, made imperfect by ``draws``, with what it shows."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.begin(batch)
        loss = self.loss(batch, draws)
        self.images_seen += draws.total
        self.latest["train/loss"] = loss.detach()
        self.log_latest()
        return loss


def degraded(x: Tensor, draws: Draws) -> Tensor:
    """Blur half of the images, N C H W in [-1, 1], by up to half their resolution, and add some noise."""
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    blurred = F.interpolate(half, x.shape[-2:], mode="bilinear")
    blur, noise = (draws.uniform(name, 1, 1, 1) for name in ("blur", "noise level"))
    x = x.lerp(blurred, (2 * blur - 1).clamp(min=0))
    return x + NOISE * (2 * noise - 1).clamp(min=0) * draws.normal("noise", *x.shape[1:])
