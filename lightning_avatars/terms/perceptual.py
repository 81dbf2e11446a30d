"""Distances of made images from what they should be, as a trained network sees them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.lpips import LPIPS, Backbone
from lightning_avatars.schedules import Schedule
from lightning_avatars.terms.base import Term

if TYPE_CHECKING:
    from lightning_avatars.families.step import Step

BLOCKS = tuple(f"network.stages.{number}" for number in (2, 3, 4, 5))  # of the recognisers that come with the project


class Seen(Term):
    """A distance from the target in a frozen network's features; the network is no part of checkpoints.

    It is loaded before training, so that a model samples without it, and images are brought to it as bytes are,
    only not rounded.

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
    """

    player = "generator"
    needs = frozenset({"target"})

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1) -> None:
        super().__init__(weight, every)
        self.held: list[nn.Module] = []  # not a part of this module

    @abstractmethod
    def load(self) -> nn.Module:
        """Load the network."""

    @abstractmethod
    def distance(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Compare images of unrounded bytes, N 3 H W each: a mean over images."""

    def prepare(self, device: torch.device) -> None:
        self.network(device)

    def network(self, device: torch.device) -> nn.Module:
        """Return the network on a device."""
        if not self.held:
            self.held.append(self.load().eval().requires_grad_(False))
        if next(self.held[0].parameters()).device != device:
            self.held[0].to(device)
        return self.held[0]

    def forward(self, step: Step) -> Tensor:
        images, targets = ((x.float().expand(-1, 3, -1, -1) + 1) * 127.5 for x in (step.fake, step.target))
        return self.distance(self.network(images.device), images, targets)


class Perceptual(Seen):
    """Squared distance of features of unit length, place by place, the mean over places and sum over layers.

    That is LPIPS's Eq. 1 (Zhang et al. 2018) with all channels as important as each other. Features of Johnson et al.
    2016 are not of unit length.

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
        extractor: Name or path of an extractor, such as avatarnet, mnistnet or inception.
        layers: Paths of its layers whose outputs are compared; by default the blocks of AvatarNet and MNISTNet. None
            compares the features that scores are computed from.
    """

    def __init__(
        self,
        weight: float | Schedule = 1.0,
        every: int = 1,
        extractor: str = "avatarnet",
        layers: Sequence[str] | None = BLOCKS,
    ) -> None:
        super().__init__(weight, every)
        self.extractor, self.layers = extractor, list(layers) if layers is not None else []

    def load(self) -> nn.Module:
        network = load_extractor(self.extractor)
        if not list(network.parameters()):
            raise ValueError(
                f"the extractor {self.extractor!r} gives no gradients, which Perceptual needs: use another, such as "
                "avatarnet"
            )
        there = dict(network.named_modules())
        absent = [layer for layer in self.layers if layer not in there]
        if absent:
            raise ValueError(
                f"the extractor {self.extractor!r} has no layer {absent[0]}: give Perceptual `layers` that it has, or "
                f"null for its last features. There are {', '.join(name for name in there if name)}"
            )
        return network

    def distance(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        seen = list(zip(self.features(network, images), self.features(network, targets), strict=True))
        squares = [(unit(a) - unit(b)).square().sum(1).mean() for a, b in seen]
        return torch.stack(squares).sum()

    def features(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Return what the layers say of images."""
        assert isinstance(network, Extractor)
        found: list[Tensor] = []
        hooks: list[RemovableHandle] = [
            network.get_submodule(layer).register_forward_hook(lambda _, __, output: found.append(output))
            for layer in self.layers
        ]
        try:
            features = network.describe(network.prepare(images)).features
        finally:
            for hook in hooks:
                hook.remove()
        return found or [features]


def unit(x: Tensor) -> Tensor:
    """Divide features, N C …, by their length."""
    return normalize(x.float(), dim=1, eps=1e-5)


class LearnedPerceptual(Seen):
    """LPIPS (Zhang et al. 2018), which VQGAN and latent diffusion train with.

    Its network's weights must be in the cache folder (``lightning-avatars weights``).

    Args:
        weight: Factor of the loss, or a schedule of it.
        every: Turns between evaluations.
        network: VGG16, as in VQGAN, for images of 16 x 16 and more, or AlexNet for 31 x 31 and more.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1, network: Backbone = "vgg") -> None:
        super().__init__(weight, every)
        self.backbone = network

    def load(self) -> nn.Module:
        return LPIPS(self.backbone)

    def distance(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        assert isinstance(network, LPIPS)
        if min(images.shape[2:]) < network.least_side:
            raise ValueError(
                f"{network.name} needs images of at least {network.least_side} x {network.least_side} pixels, got "
                f"{images.shape[2]} x {images.shape[3]}: use Perceptual"
            )
        return network.distances(images, targets).mean().to(images.dtype)
