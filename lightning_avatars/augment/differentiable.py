"""Differentiable augmentation (Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lightning_avatars.seeding import Draws


class DiffAugment(nn.Module):
    """Alter the colour and place of every image that the discriminator sees, and cut out a part (Sec. 3.2).

    Args:
        colour: Strength of the changes of brightness, saturation and contrast: 1 is the paper's, 0 is none.
        translation: Largest translation as a share of the size; what comes in is zero. 1/8 is the paper's, 0 is none.
        cutout: Size of the square that is filled with zeros as a share of the image's: 1/2 is the paper's, 0 is none.
    """

    def __init__(self, colour: float = 1.0, translation: float = 0.125, cutout: float = 0.5) -> None:
        super().__init__()
        for name, value in {"colour": colour, "translation": translation, "cutout": cutout}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the augmentation must be from 0 to 1, got {value}")
        if not (colour or translation or cutout):
            raise ValueError("colour, translation and cutout are all 0: leave the augmentation out")
        self.colour, self.translation, self.cutout = colour, translation, cutout

    def forward(self, images: Tensor, draws: Draws, stream: str) -> Tensor:
        """Alter images, N C H W about in [-1, 1]; ``stream`` names their draws."""
        u = draws.uniform(f"{stream}/augment", 7).to(images.dtype)
        if self.colour:
            images = recolour(images, *(self.colour * (2 * u[:, :3, None, None, None] - 1)).unbind(1))
        if self.translation:
            images = Shift.apply(images, *shifts(u[:, 3:5], self.translation, images))
        if self.cutout:
            images = cut_out(images, u[:, 5:], self.cutout)
        return images


def recolour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add half of ``brightness``, stretch colours by 1 + ``saturation`` and all by 1 + ``contrast`` / 2, in [-1, 1]."""
    x = images + brightness / 2
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 + contrast / 2)


def shifts(u: Tensor, share: float, images: Tensor) -> list[Tensor]:
    """Whole steps along x and y, each N, from uniform numbers N x 2."""
    ends = [int(size * share + 0.5) for size in (images.shape[3], images.shape[2])]
    return [(u[:, i] * (2 * end + 1)).floor().long() - end for i, end in enumerate(ends)]


class Shift(Function):
    """Move images by whole steps, zeros come in; the derivative moves back, so that nothing is ever added up."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, y)
        height, width = images.shape[2:]
        column = torch.arange(width, device=x.device) - x[:, None]
        row = torch.arange(height, device=x.device) - y[:, None]
        inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
        pixel = row.clamp(0, height - 1)[:, :, None] * width + column.clamp(0, width - 1)[:, None]
        pixel = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, pixel).view(images.shape).masked_fill(~inside[:, None], 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        x, y = ctx.saved_tensors
        return Shift.apply(gradient, -x, -y), None, None


def cut_out(images: Tensor, u: Tensor, share: float) -> Tensor:
    """Fill with zeros a square of a ``share`` of the size about a pixel chosen by uniform numbers N x 2."""
    inside = []
    for i, size in enumerate((images.shape[3], images.shape[2])):
        cut = int(size * share + 0.5)
        first = (u[:, i : i + 1] * (size + 1 - cut % 2)).floor() - cut // 2
        at = torch.arange(size, device=images.device)
        inside.append((at >= first) & (at < first + cut))
    return images.masked_fill((inside[0][:, None] & inside[1][:, :, None])[:, None], 0)
