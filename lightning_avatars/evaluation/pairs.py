"""Scores of images against the ones that they should be, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_avatars.evaluation.scores import Score, size_name
from lightning_avatars.metrics import pairwise
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.intervals import mean_interval
from lightning_avatars.metrics.lpips import LPIPS

Metric = Callable[[Tensor, Tensor], Tensor]


class PairMetrics:
    """Scores of images against others, pair by pair.

    What is not defined at a size is left out: MS-SSIM below 176 pixels, SSIM below 6, LPIPS below its network's least.

    Args:
        side: The shortest side of any of the images, in pixels.
        perceptual: LPIPS networks.
        identity: A face recogniser, for the cosine of embeddings.
    """

    def __init__(self, side: int, perceptual: Sequence[LPIPS], identity: Extractor | None) -> None:
        self.identity = identity
        self.metrics: dict[str, Metric] = {"l1": pairwise.l1, "mse": pairwise.mse, "psnr": pairwise.psnr}
        if pairwise.ssim_defined(side, side):
            self.metrics["ssim"] = pairwise.ssim
        if pairwise.ms_ssim_defined(side, side):
            self.metrics["ms_ssim"] = pairwise.ms_ssim
        self.networks: dict[str, str] = {}  # score -> whose features it was taken in
        for network in perceptual:
            if side < network.least_side:
                rank_zero_warn(f"{network.name} needs {network.least_side} pixels a side, images have {side}: left out")
                continue
            self.metrics[network.name], self.networks[network.name] = network, network.name
        if identity is not None:
            name = identity.score("identity")
            self.metrics[name], self.networks[name] = self.likeness, identity.name

    def likeness(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of the recogniser's features."""
        assert self.identity is not None
        return pairwise.identity_similarity(self.identity(a).features, self.identity(b).features)

    def __call__(self, made: Tensor, target: Tensor) -> Tensor:
        """Score pairs of bytes, N C H W: one column for each of ``metrics``."""
        return torch.stack([metric(made, target) for metric in self.metrics.values()], 1)


class Pairs(PairMetrics):
    """Scores of a known number of pairs of images on any number of processes.

    Args:
        count: How many pairs there will be, over all processes.
        side: The shortest side of any of the images, in pixels.
        perceptual: LPIPS networks.
        identity: A face recogniser, for the cosine of embeddings.
        device: Where scores are kept.
    """

    def __init__(
        self,
        count: int,
        side: int,
        perceptual: Sequence[LPIPS],
        identity: Extractor | None,
        device: torch.device,
    ) -> None:
        super().__init__(side, perceptual, identity)
        self.count = count
        self.bank = FeatureBank(count, len(self.metrics), torch.float64).to(device)

    def update(self, index: Tensor, made: Tensor, target: Tensor) -> None:
        """Add pairs of bytes, N C H W; ``index`` are their places among all, N."""
        self.bank.update(index, self(made, target))

    def compute(self) -> dict[str, Tensor]:
        """Scores of every pair by name, N each, in order."""
        return dict(zip(self.metrics, self.bank.compute().unbind(1), strict=True))


def means(values: Mapping[str, Tensor], networks: Mapping[str, str], diverged: bool = False) -> dict[str, Score]:
    """Means over pairs, with intervals.

    Args:
        values: Score -> one number for each pair.
        networks: Score -> whose features it was taken in.
        diverged: Whether some images were not finite: then there is no score.
    """
    return {
        f"{name}_{size_name(len(v))}": Score(
            math.nan if diverged else float(v.mean()), mean_interval(v), extractor=networks.get(name)
        )
        for name, v in values.items()
    }
