"""Pictures of any size through a network that takes few: mirrored borders, and overlapping tiles that fade over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Pixels = Mapping[str, Tensor]  # pictures and what lies beside them, N _ H W of one height and width each


def mirrored(size: int, wanted: int) -> Tensor:
    """Places in a row of ``size`` pixels that make one of ``wanted``: it goes on as its mirror image at both ends."""
    place = torch.arange(wanted) - (wanted - size) // 2
    period = max(1, 2 * (size - 1))
    place = place % period
    return torch.where(place < size, place, period - place)


def padded(pixels: Pixels, height: int, width: int) -> dict[str, Tensor]:
    """Enlarge pictures by their mirror images, as much on either side; label maps stay label maps."""
    return {
        name: x[..., mirrored(x.shape[2], height).to(x.device), :][..., mirrored(x.shape[3], width).to(x.device)]
        for name, x in pixels.items()
    }


def cut(images: Tensor, height: int, width: int) -> Tensor:
    """Undo ``padded``."""
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[..., top : top + height, left : left + width]


def up_to(size: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-size // multiple) * multiple


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of a row of pixels begin: as far apart as they can, overlapping by at least so much."""
    count = 1 + math.ceil(max(0, size - tile) / (tile - overlap))
    return [round(i * (size - tile) / max(1, count - 1)) for i in range(count)]


def fading(tile: int, overlap: int) -> Tensor:
    """Weights of a tile's pixels along one axis: they rise over the overlap as a squared sine, and fall as they rose.

    Two tiles that overlap by as much have weights that add up to 1.
    """
    edge = torch.arange(tile, dtype=torch.float64).add(0.5)
    edge = torch.minimum(edge, tile - edge)
    return (edge / max(overlap, 1) * math.pi / 2).clamp(max=math.pi / 2).sin().square()


def whole(make: Callable[[Pixels], Tensor], pixels: Pixels, multiple: int) -> Tensor:
    """Make images of whole pictures, enlarged to a multiple in height and width, and cut again.

    Args:
        make: Makes images, N C H W, of pictures.
        pixels: The pictures, of one size.
        multiple: What heights and widths that ``make`` takes are multiples of.
    """
    height, width = size_of(pixels)
    made = make(padded(pixels, up_to(height, multiple), up_to(width, multiple)))
    return cut(made, height, width)


def tiled(make: Callable[[Pixels], Tensor], pixels: Pixels, tile: int, overlap: int, together: int = 1) -> Tensor:
    """Make images of overlapping tiles of a picture, and fade from one into the next.

    Args:
        make: Makes images, N C tile tile, of pictures.
        pixels: One picture, 1 _ H W.
        tile: Height and width of the tiles.
        overlap: Pixels in which neighbours overlap, at least.
        together: Tiles that ``make`` is given at a time.
    """
    height, width = size_of(pixels)
    large = padded(pixels, max(height, tile), max(width, tile))
    rows, columns = size_of(large)
    corners = [(top, left) for top in starts(rows, tile, overlap) for left in starts(columns, tile, overlap)]
    ramp = fading(tile, overlap).float()
    weight = ramp[:, None] * ramp
    total, weights = torch.zeros(0), torch.zeros(rows, columns)
    for i in range(0, len(corners), together):
        some = corners[i : i + together]
        made = make({name: torch.cat([window(x, *corner, tile) for corner in some]) for name, x in large.items()})
        if not len(total):
            total = torch.zeros(1, made.shape[1], rows, columns)
        for corner, image in zip(some, made.float().cpu(), strict=True):
            window(total, *corner, tile).add_(image * weight)
            window(weights, *corner, tile).add_(weight)
    return cut(total / weights, height, width)


def window(x: Tensor, top: int, left: int, tile: int) -> Tensor:
    """Look at a tile of pictures."""
    return x[..., top : top + tile, left : left + tile]


def size_of(pixels: Pixels) -> tuple[int, int]:
    """Height and width of pictures."""
    height, width = next(iter(pixels.values())).shape[2:]
    return height, width
