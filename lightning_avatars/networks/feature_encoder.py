"""Features that are the same all over a region of a label map, for several images of one map (pix2pixHD, Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_avatars.networks.layers.normalization import InstanceNorm2d, all_reduce
from lightning_avatars.networks.residual_translator import ResidualTranslator


def region_means(features: Tensor, regions: Tensor) -> Tensor:
    """Average features N F H W over each region of ``regions``, N K H W of zeros and ones: N K F, zeros if empty."""
    sums = torch.einsum("nkp,nfp->nkf", regions.flatten(2), features.flatten(2))
    return sums / regions.sum((2, 3)).clamp(min=1)[:, :, None]


def spread(means: Tensor, regions: Tensor) -> Tensor:
    """Give each pixel of ``regions``, N K H W, the features of its region, from N K F: N F H W."""
    return torch.einsum("nkf,nkhw->nfhw", means, regions)


class FeatureEncoder(nn.Module):
    """Real images to planes that say what each region looks like (pix2pixHD, Wang et al. 2018, Sec. 3.4).

    A translator that sees these planes learns what they mean, and the encoder what is worth saying. It remembers how
    the features of each class are spread over the images it is trained on, so that new images of a map can be drawn.

    Departures: a region is all that has one class, for label maps here know no instances; features are drawn from a
    normal distribution for each class, where the paper draws from ten clusters.

    Args:
        channels: Channels of the images.
        mask_names: Names of the classes; they come from the data.
        features: Planes. The paper has 3.
        width: Channels after the first convolution; they double with each halving. The paper has 16.
        halvings: Convolutions that halve height and width. The paper has 4.
        momentum: Least share of a batch in what is remembered.
    """

    mean: Tensor  # of each class's features, K x F
    variance: Tensor
    batches: Tensor  # in which each class was seen

    def __init__(
        self,
        channels: int = 3,
        mask_names: Sequence[str] = (),
        features: int = 3,
        width: int = 16,
        halvings: int = 4,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        if not mask_names:
            raise ValueError("a FeatureEncoder tells classes of a label map apart: use data that have masks")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum is a share above 0 and up to 1, got {momentum}")
        self.features, self.momentum = features, momentum
        self.network = ResidualTranslator(
            2 << halvings, features, channels, width=width, blocks=0, halvings=halvings, normalization=InstanceNorm2d
        )
        shape = (len(mask_names), features)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("batches", torch.zeros(shape[0]))
        self.sums: Tensor | None = None  # of this batch's images so far, and what was remembered before it
        self.before: list[Tensor] = []

    def forward(self, image: Tensor, regions: Tensor) -> Tensor:
        """Describe images N C H W with ``regions`` N K H W, one-hot: N F H W in [-1, 1], constant in each region."""
        features = self.network(image)
        with torch.autocast(image.device.type, enabled=False):
            regions = regions.to(self.mean.dtype)
            means = region_means(features.to(self.mean.dtype), regions)
            if self.training:
                self.remember(means.detach(), regions.any(3).any(2))
            return spread(means, regions).to(image.dtype)

    def draw(self, regions: Tensor, noise: Tensor | None = None) -> Tensor:
        """Describe an image that is not there: N F H W for ``regions`` N K H W.

        Args:
            regions: One-hot label maps.
            noise: Standard normal, N K F; None for each class's mean.
        """
        regions = regions.to(self.mean.dtype)
        means = self.mean.expand(len(regions), -1, -1)
        if noise is not None:
            means = (means + noise.to(means) * self.variance.sqrt()).clamp(-1, 1)
        return spread(means, regions)

    def begin(self) -> None:
        """Tell that a batch begins: its images count together, in as many pieces and as often as they are seen."""
        self.sums = None

    @torch.no_grad()
    def remember(self, means: Tensor, present: Tensor) -> None:
        """Move mean and variance of each class that is ``present``, N K, towards ``means``, N K F, of all processes."""
        if self.sums is None:
            self.before = [kept.clone() for kept in (self.mean, self.variance, self.batches)]
        weights = present.to(means.dtype)[:, :, None]
        sums = torch.cat([weights.sum(0), (weights * means).sum(0), (weights * means.square()).sum(0)], 1)
        if dist.is_available() and dist.is_initialized():
            sums = all_reduce(sums)
        self.sums = sums if self.sums is None else self.sums + sums
        count, first, second = self.sums.split_with_sizes([1, self.features, self.features], 1)
        old_mean, old_variance, batches = self.before
        seen = count[:, 0] > 0
        self.batches.copy_(batches + seen)
        rate = torch.where(seen, (1 / self.batches.clamp(min=1)).clamp(min=self.momentum), 0.0)[:, None]
        # spread around the old mean and the new one alike: E[x²] moves as E[x] does
        square = (old_variance + old_mean.square()).lerp(second / count.clamp(min=1), rate)
        self.mean.copy_(old_mean.lerp(first / count.clamp(min=1), rate))
        self.variance.copy_(torch.where(seen[:, None], (square - self.mean.square()).clamp(min=0), old_variance))
