"""Affine maps of the plane, and the warp that moves images by them without aliasing and without a trace of its own.

The warp is that of Karras et al. 2020 ("Training generative adversarial networks with limited data", Fig. 17): images
are mirrored beyond their borders, made twice as large, looked up bilinearly and made small again, by two filters whose
chain is the identity. Departures: the filters are the symmetric 9/7 pair of Cohen, Daubechies and Feauveau where the
paper has the 12-tap, nearly symmetric symlet; they have the same cutoff and cost less, and their symmetry turns flips,
quarter turns and whole translations into copies. The lookup mirrors its coordinates where the paper pads as far as the
worst matrix of the batch needs: with symmetric filters that is the same, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import grid_sample

from lightning_avatars.augment.filters import enlarge, reduce


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Matrices N x 3 x 3 that scale both axes."""
    zero = torch.zeros_like(x)
    return affine(x, zero, zero, zero, y, zero)


def rotation(cosine: Tensor, sine: Tensor) -> Tensor:
    """Matrices N x 3 x 3 that turn the x axis towards the y axis, by angles of which cosine and sine are given."""
    zero = torch.zeros_like(sine)
    return affine(cosine, -sine, zero, sine, cosine, zero)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Matrices N x 3 x 3 that move along both axes."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return affine(one, zero, x, zero, one, y)


def affine(xx: Tensor, xy: Tensor, x: Tensor, yx: Tensor, yy: Tensor, y: Tensor) -> Tensor:
    """Matrices N x 3 x 3 from their first two rows."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([xx, xy, x, yx, yy, y, zero, zero, one], -1).view(-1, 3, 3)


def compose(*matrices: Tensor) -> Tensor:
    """Multiply matrices N x 3 x 3, unlike ``@`` in full precision whatever matrix products are allowed to do."""
    product = matrices[0]
    for matrix in matrices[1:]:
        product = (product.unsqueeze(-1) * matrix.unsqueeze(-3)).sum(-2)
    return product


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Move images by affine maps; those whose map is the identity stay as they are, bit for bit.

    Linear in the images and twice differentiable in them; the maps get no gradient.

    Args:
        images: N C H W; beyond the centres of their outermost pixels they are mirrored.
        inverse: N x 3 x 3, from places in the result to places in the image. Their origin is the image's centre, their
            unit a pixel; x goes right and y down. Maps that shrink by up to 2 are antialiased.

    Raises:
        ValueError: If the images have fewer than 2 x 2 pixels.
    """
    height, width = images.shape[2:]
    if min(height, width) < 2:
        raise ValueError(f"a warp needs images of at least 2 x 2 pixels, got {height} x {width}")
    moved = (inverse != torch.eye(3, device=inverse.device)).flatten(1).any(1)[:, None, None, None]
    warped = Lookup.apply(enlarge(images), places(inverse, height, width).to(images.dtype))
    return torch.where(moved, reduce(warped), images)


def places(inverse: Tensor, height: int, width: int) -> Tensor:
    """Where to look for each sample of the result, twice as dense as its pixels and with a margin of four samples.

    Returns:
        N x (2 H + 7) x (2 W + 7) x 2, the outermost pixels' centres at -1 and 1.
    """
    x = torch.arange(-4, 2 * width + 3, device=inverse.device) / 2 - (width - 1) / 2
    y = torch.arange(-4, 2 * height + 3, device=inverse.device)[:, None] / 2 - (height - 1) / 2
    entries = inverse[:, :2, :, None, None]  # N x rows x columns x 1 x 1
    across, down = (entries[:, i, 0] * x + (entries[:, i, 1] * y + entries[:, i, 2]) for i in (0, 1))
    return torch.stack([across * (2 / (width - 1)), down * (2 / (height - 1))], -1)


class Lookup(Function):
    """Bilinear interpolation between the pixels of mirrored images, at N x rows x columns x 2 places.

    Its derivative is ``Spread`` and the derivative of that is it again, so that penalties on gradients pass through;
    torch's own has no second derivative before 2.14.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        ctx.height, ctx.width = images.shape[2:]
        return grid_sample(images, places, "bilinear", "reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        return Spread.apply(gradient, places, ctx.height, ctx.width), None


class Spread(Function):
    """The adjoint of ``Lookup``: every value is spread over the four pixels that it would be interpolated from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, height: int, width: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        if values.is_cuda and torch.are_deterministic_algorithms_enabled():
            return spread_in_order(values, places, height, width)
        shape = values.new_zeros(()).expand(*values.shape[:2], height, width)  # only its shape is looked at
        bilinear, reflection = 0, 2
        spread: Tensor
        spread, _ = torch.ops.aten.grid_sampler_2d_backward(
            values, shape, places, bilinear, reflection, True, [True, False]
        )
        return spread

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        return Lookup.apply(gradient, places), None, None, None


def spread_in_order(values: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """Spread values over pixels in an order that is always the same, which torch's faster way on GPUs is not."""
    n, c = values.shape[:2]
    last = places.new_tensor([width - 1, height - 1])
    at = ((places.flatten(1, 2) + 1) / 2 * last).remainder(2 * last)
    at = torch.minimum(at, 2 * last - at)  # N x places x 2, mirrored into the image
    low = at.floor()
    high = torch.minimum(low + 1, last)
    over = at - low
    image = torch.arange(n, device=values.device)[:, None] * (height * width)
    flat = values.flatten(2).mT  # N x places x C
    spread = values.new_zeros(n * height * width, c)
    for x, across in ((low, 1 - over), (high, over)):
        for y, down in ((low, 1 - over), (high, over)):
            pixel = image + (y[..., 1] * width + x[..., 0]).long()
            weight = (across[..., 0] * down[..., 1])[..., None]
            spread.index_put_((pixel.flatten(),), (weight * flat).flatten(0, 1), accumulate=True)
    return spread.view(n, height, width, c).movedim(-1, 1)
