"""Training of networks that name the part of a face that each pixel shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.perception import Perception, degraded
from lightning_avatars.images import to_float
from lightning_avatars.metrics.processes import add_up
from lightning_avatars.metrics.segmentation import SegmentationScores
from lightning_avatars.networks.segmenter import SegmentationNet, save_segmenter
from lightning_avatars.objectives.segmentation import balanced_cross_entropy, count_parts
from lightning_avatars.seeding import Draws


class Segmentation(Perception):
    """A network that learns to name parts in images that are made imperfect as generated ones are.

    It judges translations of label maps: ``segmenter.safetensors`` of the run's folder is what scores take.

    Args:
        network: Images to logits of each pixel.
        kwargs: Of ``Perception``.
    """

    network: SegmentationNet

    def __init__(self, network: SegmentationNet, **kwargs: Any) -> None:  # noqa: ANN401
        if len(network.mask_names) < 2:
            raise ValueError(
                "a segmenter needs label maps of two or more parts to learn: give data that has some, such as "
                "avatar_parts64, and network.mask_names"
            )
        super().__init__(network, **kwargs)
        self.scores = SegmentationScores(network.mask_names)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FaceData) and stage != "predict" and data.mask_names != self.network.mask_names:
            raise ValueError(
                f"the data's parts are {', '.join(data.mask_names) or 'none: they have no label maps'}, but "
                f"network.mask_names are {', '.join(self.network.mask_names)}: make them the same"
            )

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        logits = self.network(degraded(to_float(batch["image"]), draws)).float()
        counts = count_parts(batch["mask"], len(self.network.mask_names))
        add_up(counts)
        share = balanced_cross_entropy(logits, batch["mask"], counts)
        return self.trainer.world_size * share  # the processes' mean is that of all

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def on_test_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.scores.update(self.label_maps(batch), batch["mask"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.scores.update(self.label_maps(batch), batch["mask"])

    def on_validation_epoch_end(self) -> None:
        self.log_scores("val")

    def on_test_epoch_end(self) -> None:
        self.log_scores("test")

    def log_scores(self, stage: str) -> None:
        """Log the share of pixels named rightly, and the IoU of each part that occurs and their mean."""
        self.log_dict({f"{stage}/{name}": v.float() for name, v in self.scores.compute().items()}, sync_dist=True)
        self.log_clock()

    def label_maps(self, batch: Batch) -> Tensor:
        """Name what the pictures show: the likeliest part of each pixel, bytes, N 1 H W."""
        return self.network(to_float(batch["image"])).argmax(1, keepdim=True).byte()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"image": self.label_maps(batch)}

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            save_segmenter(self.network, Path(self.trainer.default_root_dir) / "segmenter.safetensors")
