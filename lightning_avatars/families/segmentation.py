"""Training of networks that name the part of a face that each pixel shows."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer

from lightning_avatars.data.base import FaceData
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.base import FaceModule
from lightning_avatars.families.recognition import degraded
from lightning_avatars.images import to_float
from lightning_avatars.metrics.processes import add_up
from lightning_avatars.metrics.segmentation import SegmentationScores
from lightning_avatars.networks.segmenter import SegmentationNet, save_segmenter
from lightning_avatars.objectives.segmentation import balanced_cross_entropy, count_parts
from lightning_avatars.schedules import Schedule


class Segmentation(FaceModule):
    """A network that learns to name parts in images that are made imperfect as generated ones are.

    It judges translations of label maps: ``segmenter.safetensors`` of the run's folder is what scores take.

    Args:
        network: Images to logits of each pixel.
        optimizer: Makes the optimizer.
        learning_rate: Learning rate over images; the optimizer's own by default.
        seed: Seed of every draw that training makes.
    """

    def __init__(
        self,
        network: SegmentationNet,
        optimizer: OptimizerCallable = AdamW,
        learning_rate: Schedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if len(network.mask_names) < 2:
            raise ValueError(
                "a segmenter needs label maps of two or more parts to learn: give data that has some, such as "
                "avatar_parts64, and network.mask_names"
            )
        self.network, self.optimizer, self.learning_rate = network, optimizer, learning_rate
        self.scores = SegmentationScores(network.mask_names)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, FaceData) and stage != "predict" and data.mask_names != self.network.mask_names:
            raise ValueError(
                f"the data's parts are {', '.join(data.mask_names) or 'none: they have no label maps'}, but "
                f"network.mask_names are {', '.join(self.network.mask_names)}: make them the same"
            )

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.network.parameters())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.learning_rate is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.learning_rate(self.images_seen)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.begin(batch)
        logits = self.network(degraded(to_float(batch["image"]), draws)).float()
        counts = count_parts(batch["mask"], len(self.network.mask_names))
        add_up(counts)
        share = balanced_cross_entropy(logits, batch["mask"], counts)
        loss = self.trainer.world_size * share  # the processes' mean is that of all
        self.images_seen += draws.total
        self.latest["train/loss"] = loss.detach()
        self.log_latest()
        return loss

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
