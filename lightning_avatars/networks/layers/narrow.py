"""A convolution to few channels, such as the one that makes an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


class NarrowConv2d(nn.Conv2d):
    """A convolution whose outputs are few: on a CPU, kernels as columns, and then sums of shifted images.

    A CPU computes 16 channels together or none, and 3 outputs leave it idle. Each column of the kernel makes outputs of
    its own, and the sum over columns is taken afterwards: as many operations, 2.5 times as fast for 64 channels to 3 at
    128 x 128 with 7 x 7 pixels, where the plain one took 7 % of a residual translator's step.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        kernel: Height and width of the kernel.
        padding: Rows and columns of zeros at each edge.
        bias: Whether there is a bias.
    """

    def __init__(self, before: int, after: int, kernel: int, padding: int = 0, bias: bool = True) -> None:
        super().__init__(before, after, kernel, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        columns = self.weight.permute(3, 0, 1, 2).flatten(0, 1).unsqueeze(3)  # (kernel x after) before kernel 1
        parts = conv2d(x, columns, padding=self.padding).split_with_sizes([self.out_channels] * self.kernel_size[0], 1)
        width = parts[0].shape[3] - len(parts) + 1
        total = parts[0][..., :width].to(torch.promote_types(x.dtype, torch.float32))
        for shift, part in enumerate(parts[1:], 1):
            total = total + part[..., shift : shift + width]
        total = total if self.bias is None else total + self.bias[:, None, None]
        return total.to(parts[0].dtype)
