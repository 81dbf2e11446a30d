"""The Inception network whose features the Fréchet Inception distance is defined in.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", as the TensorFlow graph
``inception-2015-12-05`` has it. What later libraries call by that name differs: here average pools leave the padding
out, and the last block takes a maximum in place of the average. Batch norm is folded into the convolutions when weights
are loaded. Layers keep the names under which their weights are published.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPSILON = 1e-3


class Layer(nn.Conv2d):
    """A convolution with its batch norm folded into it, and a rectifier.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Height and width of the kernel, or both in one number.
        stride: Step of the kernel.
        padded: Whether zeros around the input keep its height and width.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2) if padded else (0, 0)
        super().__init__(inputs, outputs, (height, width), stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class Branches(nn.Module):
    """Branches that see the same input, and whose outputs are joined along the channels.

    Args:
        branches: The branches by name.
    """

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def chain(**layers: nn.Module) -> nn.Sequential:
    """Put named layers one behind the other."""
    return nn.Sequential(OrderedDict(layers))


def average_pool() -> nn.AvgPool2d:
    """Average each pixel and its neighbours; at the borders, those that exist."""
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def block_a(inputs: int, pool_outputs: int) -> Branches:
    """Build a block for 35 x 35 pixels."""
    one, two, three = Layer(inputs, 64, 1), Layer(64, 96, 3), Layer(96, 96, 3)
    return Branches(
        branch1x1=Layer(inputs, 64, 1),
        branch5x5=chain(branch5x5_1=Layer(inputs, 48, 1), branch5x5_2=Layer(48, 64, 5)),
        branch3x3dbl=chain(branch3x3dbl_1=one, branch3x3dbl_2=two, branch3x3dbl_3=three),
        pooled=chain(pool=average_pool(), branch_pool=Layer(inputs, pool_outputs, 1)),
    )


def block_b(inputs: int) -> Branches:
    """Build the block from 35 x 35 to 17 x 17 pixels."""
    one, two, three = Layer(inputs, 64, 1), Layer(64, 96, 3), Layer(96, 96, 3, stride=2, padded=False)
    return Branches(
        branch3x3=Layer(inputs, 384, 3, stride=2, padded=False),
        branch3x3dbl=chain(branch3x3dbl_1=one, branch3x3dbl_2=two, branch3x3dbl_3=three),
        pool=nn.MaxPool2d(3, stride=2),
    )


def block_c(inputs: int, inner: int) -> Branches:
    """Build a block for 17 x 17 pixels, its kernels of 7 x 7 made of rows and columns."""
    return Branches(
        branch1x1=Layer(inputs, 192, 1),
        branch7x7=chain(
            branch7x7_1=Layer(inputs, inner, 1),
            branch7x7_2=Layer(inner, inner, (1, 7)),
            branch7x7_3=Layer(inner, 192, (7, 1)),
        ),
        branch7x7dbl=chain(
            branch7x7dbl_1=Layer(inputs, inner, 1),
            branch7x7dbl_2=Layer(inner, inner, (7, 1)),
            branch7x7dbl_3=Layer(inner, inner, (1, 7)),
            branch7x7dbl_4=Layer(inner, inner, (7, 1)),
            branch7x7dbl_5=Layer(inner, 192, (1, 7)),
        ),
        pooled=chain(pool=average_pool(), branch_pool=Layer(inputs, 192, 1)),
    )


def block_d(inputs: int) -> Branches:
    """Build the block from 17 x 17 to 8 x 8 pixels."""
    return Branches(
        branch3x3=chain(branch3x3_1=Layer(inputs, 192, 1), branch3x3_2=Layer(192, 320, 3, stride=2, padded=False)),
        branch7x7x3=chain(
            branch7x7x3_1=Layer(inputs, 192, 1),
            branch7x7x3_2=Layer(192, 192, (1, 7)),
            branch7x7x3_3=Layer(192, 192, (7, 1)),
            branch7x7x3_4=Layer(192, 192, 3, stride=2, padded=False),
        ),
        pool=nn.MaxPool2d(3, stride=2),
    )


def block_e(inputs: int, pool: nn.Module) -> Branches:
    """Build a block for 8 x 8 pixels, two of whose branches part once more."""
    ends = Branches(branch3x3_2a=Layer(384, 384, (1, 3)), branch3x3_2b=Layer(384, 384, (3, 1)))
    double_ends = Branches(branch3x3dbl_3a=Layer(384, 384, (1, 3)), branch3x3dbl_3b=Layer(384, 384, (3, 1)))
    return Branches(
        branch1x1=Layer(inputs, 320, 1),
        branch3x3=chain(branch3x3_1=Layer(inputs, 384, 1), ends=ends),
        branch3x3dbl=chain(branch3x3dbl_1=Layer(inputs, 448, 1), branch3x3dbl_2=Layer(448, 384, 3), ends=double_ends),
        pooled=chain(pool=pool, branch_pool=Layer(inputs, 192, 1)),
    )


class InceptionNet(nn.Module):
    """Images of 299 x 299 pixels to 2048 features.

    Its stages follow each other; the means of their outputs are the features that are also published: 64 of ``stem1``,
    192 of ``stem2``, 768 of ``middle`` and 2048 of ``top``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = chain(
            Conv2d_1a_3x3=Layer(3, 32, 3, stride=2, padded=False),
            Conv2d_2a_3x3=Layer(32, 32, 3, padded=False),
            Conv2d_2b_3x3=Layer(32, 64, 3),
            pool=nn.MaxPool2d(3, stride=2),
        )
        self.stem2 = chain(
            Conv2d_3b_1x1=Layer(64, 80, 1),
            Conv2d_4a_3x3=Layer(80, 192, 3, padded=False),
            pool=nn.MaxPool2d(3, stride=2),
        )
        self.middle = chain(
            Mixed_5b=block_a(192, 32),
            Mixed_5c=block_a(256, 64),
            Mixed_5d=block_a(288, 64),
            Mixed_6a=block_b(288),
            Mixed_6b=block_c(768, 128),
            Mixed_6c=block_c(768, 160),
            Mixed_6d=block_c(768, 160),
            Mixed_6e=block_c(768, 192),
        )
        self.top = chain(
            Mixed_7a=block_d(768),
            Mixed_7b=block_e(1280, average_pool()),
            Mixed_7c=block_e(2048, nn.MaxPool2d(3, stride=1, padding=1)),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Describe images, N 3 299 299 in [-1, 1), by N x 2048 numbers."""
        x = self.top(self.middle(self.stem2(self.stem1(x))))
        return x.mean((2, 3))


def load_inception(tensors: Mapping[str, Tensor]) -> InceptionNet:
    """Build the frozen network from its published tensors: of each layer ``conv.weight`` and four of ``bn``.

    Raises:
        ValueError: They are another network's.
    """
    with torch.random.fork_rng([]):  # the weights that are drawn here are replaced
        network = InceptionNet()
    for name, layer in network.named_modules():
        if isinstance(layer, Layer):
            try:
                layer.load_state_dict(folded(tensors, published(name)))
            except (KeyError, RuntimeError) as error:
                raise ValueError(
                    "these are not the weights of the Inception network of 2015: those of the layer "
                    f"{published(name)} are missing or of another shape"
                ) from error
    return network.eval().requires_grad_(False)


def published(name: str) -> str:
    """Name a layer as its weights are: ``middle.Mixed_5b.pooled.branch_pool`` is ``Mixed_5b.branch_pool``."""
    _, block, *inner = name.split(".")
    return ".".join([block, *inner[-1:]])


def folded(tensors: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """Weight and bias, in float64, of the convolution that equals a convolution and the batch norm behind it."""
    names = [f"{layer}.{part}" for part in ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "conv.weight")]
    scale, shift, mean, variance, weight = (tensors[name].double() for name in names)
    scale = scale / (variance + BATCH_NORM_EPSILON).sqrt()
    return {"weight": weight * scale.view(-1, 1, 1, 1), "bias": shift - mean * scale}
