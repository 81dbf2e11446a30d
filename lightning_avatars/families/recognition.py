"""Training of networks that name the attributes of faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.data.batches import Batch
from lightning_avatars.families.perception import Perception, degraded
from lightning_avatars.images import to_float
from lightning_avatars.networks.recognizer import RecognitionNet, save_recognizer
from lightning_avatars.objectives.recognition import correct, label_losses, probabilities
from lightning_avatars.seeding import Draws

SHIFT = 2  # pixels


class Recognition(Perception):
    """A network that learns to name attributes from images that are made imperfect as generated ones are.

    Args:
        network: Images to logits.
        kwargs: Of ``Perception``.
    """

    network: RecognitionNet

    def __init__(self, network: RecognitionNet, **kwargs: Any) -> None:  # noqa: ANN401
        if not network.label_names:
            raise ValueError("a recogniser needs labels to learn: give data that has some, and network.label_names")
        super().__init__(network, **kwargs)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.label_names and self.label_names != self.network.label_names:
            raise ValueError(
                f"the data's labels are {', '.join(self.label_names)}, but network.label_names are "
                f"{', '.join(self.network.label_names)}: make them the same"
            )

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        logits = self.network(imperfect(to_float(batch["image"]), draws)).float()
        losses = label_losses(logits, batch["labels"], self.network.label_names)
        return torch.stack(list(losses.values())).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch, "test")

    def score(self, batch: Batch, stage: str) -> None:
        """Log the share of images whose label is named rightly, per group, and its mean over the groups."""
        logits = self.network(to_float(batch["image"])).float()
        right = correct(logits, batch["labels"], self.network.label_names)
        accuracies = {f"{stage}/accuracy/{group}": hits.float().mean() for group, hits in right.items()}
        accuracies[f"{stage}/accuracy"] = torch.stack(list(accuracies.values())).mean()
        self.log_dict(accuracies, batch_size=len(logits), sync_dist=True)
        self.log_clock()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"labels": probabilities(self.network(to_float(batch["image"])).float(), self.network.label_names)}

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            save_recognizer(self.network, Path(self.trainer.default_root_dir) / "recognizer.safetensors")


def imperfect(x: Tensor, draws: Draws) -> Tensor:
    """Shift each image by a few pixels, blur half of them by up to half their resolution, and add some noise."""
    return degraded(shifted(x, (draws.uniform("shift", 2) * (2 * SHIFT + 1)).long()), draws)


def shifted(x: Tensor, offsets: Tensor) -> Tensor:
    """Move each image of N C H W by its own ``offsets`` - SHIFT pixels, N x 2; edges are repeated."""
    height, width = x.shape[-2:]
    padded = F.pad(x, [SHIFT] * 4, mode="replicate")
    rows = offsets[:, :1] + torch.arange(height, device=x.device)
    columns = offsets[:, 1:] + torch.arange(width, device=x.device)
    images = torch.arange(len(x), device=x.device)
    return padded.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
