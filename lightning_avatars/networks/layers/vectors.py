"""Convolutions that see a whole image at once or begin with a single place, as the matrix products that they are.

Weights, and what is computed from them, are those of torch's convolutions, whose code for such shapes takes three times
as long on a CPU. Channels-last weights are read as they lie in memory; others are copied.
"""

from __future__ import annotations

from torch import Tensor, addmm, nn
from torch.nn.functional import linear


class ToVector(nn.Conv2d):
    """A convolution whose kernel is as large as its input: N C k k to N F 1 1.

    Args:
        channels: Channels of the input.
        features: Channels of the output.
        size: Height and width of the input.
    """

    def __init__(self, channels: int, features: int, size: int) -> None:
        super().__init__(channels, features, size)

    def forward(self, x: Tensor) -> Tensor:
        product = linear(last(x).flatten(1), last(self.weight).flatten(1), self.bias)
        return product[:, :, None, None]


class FromVector(nn.ConvTranspose2d):
    """A transposed convolution of a single place: N F 1 1 to N C k k.

    Args:
        features: Channels of the input.
        channels: Channels of the output.
        size: Height and width of the output.
    """

    def __init__(self, features: int, channels: int, size: int) -> None:
        super().__init__(features, channels, size)

    def forward(self, z: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = last(self.weight)  # F k k C
        assert self.bias is not None
        product = addmm(self.bias.repeat(weight[0, ..., 0].numel()), z.flatten(1), weight.flatten(1))
        return product.reshape(-1, *weight.shape[1:]).permute(0, 3, 1, 2)


def last(x: Tensor) -> Tensor:
    """Put channels last: N C H W to N H W C."""
    return x.permute(0, 2, 3, 1)
