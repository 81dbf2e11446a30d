"""Weights divided by their largest singular value (Miyato et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from lightning_avatars.networks.layers.labels import LabelEmbedding


class SpectralNorm(nn.Module):
    """Divide a weight by an estimate of its largest singular value, from power iteration (Sec. 2.1, Algorithm 1).

    The estimate moves once each time the weight has moved, not with each forward pass: real and made images are judged
    by the same weights, and neither chunks of a batch nor recomputed activations change a run.

    Args:
        weight: The weight, of any shape; its first dimension is the outputs.
        iterations: Power iterations at the start.
    """

    vector: Tensor  # the left singular vector, as far as it is known
    mark: Tensor  # tells whether the weight has moved

    def __init__(self, weight: Tensor, iterations: int = 15) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("vector", normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("mark", torch.full_like(matrix[0, 0], torch.nan))
        for _ in range(iterations):
            self.follow(matrix)
            self.mark.fill_(torch.nan)

    def forward(self, weight: Tensor) -> Tensor:
        kind = weight.device.type
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):  # a meta device has no autocast
            matrix = weight.flatten(1)
            if self.training:
                self.follow(matrix.detach())
            largest: Tensor = (self.vector.clone() @ matrix).norm()  # a clone: later turns move the vector in place
            return weight / largest

    @torch.no_grad()
    def follow(self, matrix: Tensor) -> None:
        """Iterate once if the weight is another than it was."""
        mark = matrix.sum()
        moved = normalize(matrix @ normalize(self.vector @ matrix, dim=0), dim=0)
        self.vector.copy_(torch.where(mark == self.mark, self.vector, moved))
        self.mark.copy_(mark)


def add_spectral_norm(module: nn.Module) -> None:
    """Normalise the weights of all convolutions, linear layers and embeddings in a module."""
    for layer in list(module.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear, LabelEmbedding)):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
