"""How near images are to the ones that they should be: one number per pair of images, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.metrics.processes import exact

RADIUS, SIGMA = 5, 1.5  # SSIM's window, 11 x 11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
MS_SSIM_SIDE = 176  # halved four times, 11: one window
PIXELS = 2**19  # compared at once: some 200 MB in float64


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images scaled to [0, 1], N.

    Args:
        a: Images of bytes, N C H W with 1 or 3 channels.
        b: Images of the same shape.
    """
    return in_chunks(absolute_difference, a, b) / (255 * a.shape[1:].numel())


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of images scaled to [0, 1], N.

    Args:
        a: Images of bytes, N C H W with 1 or 3 channels.
        b: Images of the same shape.
    """
    return in_chunks(squared_difference, a, b) / (255**2 * a.shape[1:].numel())


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, with a peak of 255 and over all channels, N.

    Equal images would have an infinite one, and with them every mean. They get the largest that unequal images of bytes
    of their size can have: one value of one pixel differs by 1, ``10 log10(255^2 C H W)``.

    Args:
        a: Images of bytes, N C H W with 1 or 3 channels.
        b: Images of the same shape.
    """
    return 10 * torch.log10(255**2 * a.shape[1:].numel() / in_chunks(squared_difference, a, b).clamp(min=1))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, Eq. 13), mean over pixels and channels, N.

    An 11 x 11 Gaussian window with sigma 1.5, k1 = 0.01, k2 = 0.03, range 255. As in torchmetrics 1.9, images go on
    beyond their borders as their mirror images and every pixel counts; the paper compares grey images and leaves out
    the 5 pixels next to the borders. In float64: in float32 two equal white images would get 0.999.

    Args:
        a: Images of bytes, N C H W with 1 or 3 channels.
        b: Images of the same shape.

    Raises:
        ValueError: A side is below 6 pixels, too short to be mirrored.
    """
    check(a, b)
    if not ssim_defined(*a.shape[2:]):
        raise ValueError(f"SSIM needs images of at least 6 x 6 pixels, got {a.shape[2]} x {a.shape[3]}")
    return in_chunks(lambda x, y: similarity_and_contrast(x, y)[0].mean((1, 2, 3)), a, b)


def ssim_defined(height: int, width: int) -> bool:
    """Whether images of this size have an SSIM."""
    return min(height, width) > RADIUS


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003, Eq. 7) on five scales, N.

    As in torchmetrics: each scale is half of the one before (2 x 2 means), the contrast and structure of a scale leave
    out the 5 pixels next to the borders, the SSIM of the last doesn't, and what is negative counts as 0.

    Args:
        a: Images of bytes, N C H W with 1 or 3 channels.
        b: Images of the same shape.

    Raises:
        ValueError: A side is below 176 pixels, so that the last scale has no room for the window.
    """
    check(a, b)
    if not ms_ssim_defined(*a.shape[2:]):
        raise ValueError(f"MS-SSIM needs images of at least 176 x 176 pixels, got {a.shape[2]} x {a.shape[3]}")
    return in_chunks(over_scales, a, b)


def ms_ssim_defined(height: int, width: int) -> bool:
    """Whether images of this size have an MS-SSIM."""
    return min(height, width) >= MS_SSIM_SIDE


def identity_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of two faces' embeddings, row by row, in [-1, 1], N.

    Args:
        a: Features of a face recogniser, N x D.
        b: Features of the faces that they are compared with, N x D.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"features of pairs must be N x D and as many, got {tuple(a.shape)} and {tuple(b.shape)}")
    return F.cosine_similarity(a.to(exact(a.device)).double(), b.to(exact(b.device)).double())


def check(a: Tensor, b: Tensor) -> None:
    """Refuse what are not two batches of bytes of one shape."""
    if (
        a.dtype != torch.uint8
        or b.dtype != torch.uint8
        or a.shape != b.shape
        or a.ndim != 4
        or a.shape[1] not in (1, 3)
    ):
        raise ValueError(
            f"pairs are two uint8 batches N C H W of one shape with 1 or 3 channels; got {a.dtype} of shape "
            f"{tuple(a.shape)} and {b.dtype} of shape {tuple(b.shape)}: use images.to_bytes"
        )


def in_chunks(score: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Score pairs a few at a time, so that large images and batches take no more memory than small ones."""
    size = max(1, PIXELS // (a.shape[2] * a.shape[3]))
    return torch.cat([score(a[i : i + size], b[i : i + size]) for i in range(0, max(1, len(a)), size)])


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Sum of squared differences of bytes, N, exact: in integers."""
    check(a, b)
    total = (a.int() - b.int()).square().sum((1, 2, 3))
    return total.to(exact(a.device)).double()


def absolute_difference(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences of bytes, N, exact: in integers."""
    check(a, b)
    total = (a.int() - b.int()).abs().sum((1, 2, 3))
    return total.to(exact(a.device)).double()


def window(size: int, device: torch.device) -> Tensor:
    """Matrix that blurs one axis of ``size`` pixels with SSIM's window, mirrored at both ends."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=device)
    weights = (offsets.double() / SIGMA).square().div(-2).exp()
    places = (torch.arange(size, device=device)[:, None] + offsets).abs()
    places = torch.where(places < size, places, 2 * (size - 1) - places)
    matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(size, -1))


def similarity_and_contrast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its factor without luminance (Wang et al. 2004, Eq. 13 and Eq. 9 x Eq. 10), for every pixel."""
    a, b = (images.to(exact(images.device)).double() for images in (a, b))
    vertical, horizontal = window(a.shape[2], a.device), window(a.shape[3], a.device).T
    mean_a, mean_b, square_a, square_b, product = (
        vertical @ images @ horizontal for images in (a, b, a * a, b * b, a * b)
    )
    variances = square_a - mean_a**2 + square_b - mean_b**2
    contrast = (2 * (product - mean_a * mean_b) + C2) / (variances + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance * contrast, contrast


def over_scales(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of a chunk."""
    a, b = (images.to(exact(images.device)).double() for images in (a, b))
    inner = slice(RADIUS, -RADIUS)
    result = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for exponent in MS_SSIM_EXPONENTS[:-1]:
        contrast = similarity_and_contrast(a, b)[1][..., inner, inner]
        result = result * contrast.mean((1, 2, 3)).relu() ** exponent
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result * similarity_and_contrast(a, b)[0].mean((1, 2, 3)).relu() ** MS_SSIM_EXPONENTS[-1]
