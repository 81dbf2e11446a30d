"""Changes of colour as one affine map per image (Karras et al. 2020, Fig. 17)."""

from __future__ import annotations

import torch
from torch import Tensor


def recolour(
    images: Tensor, brightness: Tensor, contrast: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor
) -> Tensor:
    """Change brightness, contrast, luma, hue and saturation; where all are neutral, bit for bit nothing.

    Luma is a colour's part along the grey axis v = (1, 1, 1) / sqrt(3), chroma is the rest. The product of the paper's
    4 x 4 matrices has the linear part ``contrast (luma v v^T + saturation R(hue) (1 - v v^T))`` and the translation
    ``contrast luma brightness``, for brightness lies on the grey axis. Grey images are colour images without chroma.

    Args:
        images: N C H W with one channel or three.
        brightness: N, added to every channel; neutral is 0.
        contrast: N, factor of every channel; neutral is 1.
        luma: N, factor of the luma, -1 turns it around; neutral is 1.
        hue: N, angle about the grey axis in radians; neutral is 0.
        saturation: N, factor of the chroma; neutral is 1.

    Raises:
        ValueError: If the images have two channels, or more than three.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"colours are changed in images of 1 or 3 channels, these have {channels}; set colour to 0")
    along = (contrast * luma - 1)[:, None, None]
    change = along.expand(-1, 1, 1)
    if channels == 3:
        chroma = contrast * saturation
        across, around = chroma * hue.cos() - 1, chroma * hue.sin()
        change = circulant(along[:, 0, 0] - across, across, around)
    offset = (contrast * luma * brightness)[:, None, None].to(images.dtype)
    flat = images.flatten(2)
    return torch.baddbmm(flat + offset, change.to(images.dtype), flat).view(images.shape)


def circulant(along: Tensor, across: Tensor, around: Tensor) -> Tensor:
    """Matrices N x 3 x 3: ``along`` v v^T + ``across`` + ``around`` times the turn by a quarter about v."""
    turn = around / 3**0.5
    main, next_, last = along / 3 + across, along / 3 - turn, along / 3 + turn
    rows = [main, next_, last, last, main, next_, next_, last, main]
    return torch.stack(rows, -1).view(-1, 3, 3)
