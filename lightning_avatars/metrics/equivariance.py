"""How exactly pictures follow when a generator's input is moved or turned (Karras et al. 2021, Sec. 2.2 and E).

Each figure is a peak signal-to-noise ratio in dB between the picture of the moved input and the moved picture, over the
pixels that both know. Departures from the published metrics: the windows of the filters are Kaiser's; and what turns
a picture is a low-pass filter that is the same in all directions and stops at the pixels' own limit of 0.5 cycles, so
that the picture it is compared with can go through the very same filter, unturned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_avatars.metrics.extractors.base import full_float32
from lightning_avatars.metrics.processes import exact
from lightning_avatars.networks.stylegan3 import StyleGAN3Generator

SPAN = 2.0  # of pictures in [-1, 1]
FURTHEST = 1 / 8  # of a picture's side
REACH = 10  # pixels of the filters to each side
BETA = 6.0  # of their Kaiser windows: 63 dB
CUTOFF = 0.4  # cycles per pixel of the filter that turns
SMALLEST = 32  # pixels, so that filters have room


@torch.no_grad()
def equivariance(
    generator: StyleGAN3Generator,
    latents: Tensor,
    labels: Tensor | None = None,
    seed: int = 0,
    batch: int = 16,
) -> dict[str, float]:
    """Measure ``eq_t``, ``eq_t_frac`` and ``eq_r`` of a generator, in dB, in evaluation mode.

    ``eq_t`` is for moves by whole pixels and ``eq_t_frac`` for any, both up to an eighth of the picture along each
    axis; ``eq_r`` is for any angle.

    Args:
        generator: The network, which must be on the device of the latents.
        latents: One for each picture, N x latent_dim.
        labels: Labels, N x label_dim, where the network is conditional.
        seed: Seed of the moves and angles.
        batch: Pictures drawn at once.

    Raises:
        ValueError: There are no latents, or pictures are too small to be compared once they have been moved.
    """
    if not len(latents) or generator.resolution < SMALLEST:
        raise ValueError(
            f"equivariance needs a latent and pictures of {SMALLEST} x {SMALLEST} or more, got {len(latents)} latents "
            f"and pictures of {generator.resolution} x {generator.resolution}"
        )
    training, draws = generator.training, torch.Generator().manual_seed(seed)
    moves = (2 * torch.rand(len(latents), 2, generator=draws, dtype=torch.float64) - 1) * FURTHEST
    angles = 2 * math.pi * torch.rand(len(latents), generator=draws, dtype=torch.float64)
    errors: dict[str, list[Tensor]] = {"eq_t": [], "eq_t_frac": [], "eq_r": []}
    generator.eval()
    with torch.autocast(latents.device.type, enabled=False), full_float32():  # TF32 alone makes errors of -60 dB
        for first in range(0, len(latents), batch):
            rows = slice(first, first + batch)
            w = generator.mapping(latents[rows], labels if labels is None else labels[rows])
            w = generator.spread(w)
            still = draw(generator, w)
            size = still.shape[-1]
            whole = (moves[rows] * size).round() / size
            for name, move in (("eq_t", whole), ("eq_t_frac", moves[rows])):
                there = draw(generator, w, translation(move))
                triples = zip(still, there, (move * size).tolist(), strict=True)
                errors[name] += [moved_error(*triple) for triple in triples]
            there = draw(generator, w, rotation(angles[rows]))
            triples = zip(still, there, angles[rows].tolist(), strict=True)
            errors["eq_r"] += [turned_error(*triple) for triple in triples]
    generator.train(training)
    return {name: decibels(torch.cat(error)) for name, error in errors.items()}


def draw(generator: StyleGAN3Generator, styles: Tensor, transform: Tensor | None = None) -> Tensor:
    """Draw pictures and bring them to where they are compared in float64."""
    pictures = generator.synthesis(styles, transform=transform)
    return pictures.to(exact(pictures.device))


def decibels(squared_errors: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1]; infinite where there is no error."""
    mean = squared_errors.double().mean().item()
    return 10 * math.log10(SPAN**2 / mean) if mean else math.inf


def translation(moves: Tensor) -> Tensor:
    """Where points come from, N x 3 x 3, if pictures move by ``moves`` to the right and down, N x 2, in their sides."""
    matrices = torch.eye(3, dtype=moves.dtype, device=moves.device).repeat(len(moves), 1, 1)
    matrices[:, :2, 2] = -moves
    return matrices


def rotation(angles: Tensor) -> Tensor:
    """Where points come from, N x 3 x 3, if pictures turn clockwise by ``angles``, N, in radians."""
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    rows = [angles.cos(), angles.sin(), zero, -angles.sin(), angles.cos(), zero, zero, zero, one]
    return torch.stack(rows, 1).view(-1, 3, 3)


def moved_error(still: Tensor, there: Tensor, move: list[float]) -> Tensor:
    """Squared differences of ``there`` from ``still``, C H W, moved right and down by pixels, where both are known."""
    (across, known_across), (down, known_down) = (shift(still.shape[-1], pixels) for pixels in move)
    moved = down.to(still) @ still @ across.to(still).T
    known = (known_down[:, None] & known_across).to(still.device)
    return (moved - there).square()[:, known].flatten()


def shift(size: int, pixels: float) -> tuple[Tensor, Tensor]:
    """Matrix, size x size, that moves samples forward by ``pixels``, and which of the moved ones are known."""
    at = torch.arange(size, dtype=torch.float64)
    distance = at[:, None] - at - pixels
    everywhere = torch.arange(-REACH, REACH + 1, dtype=torch.float64) - pixels % 1
    matrix = torch.sinc(distance) * kaiser(distance) / (torch.sinc(everywhere) * kaiser(everywhere)).sum()
    reach = 0 if pixels == round(pixels) else REACH - 1  # whole pixels only change places
    return matrix, (at - pixels >= reach) & (at - pixels <= size - 1 - reach)


def turned_error(still: Tensor, there: Tensor, angle: float) -> Tensor:
    """Squared differences of ``there`` from ``still``, C H W, turned clockwise by an angle, where both are known."""
    (turned, known), (kept, known_too) = turn(still, angle), turn(there, 0.0)
    return (turned - kept).square()[:, known & known_too].flatten()


def turn(image: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Turn a picture, C H W, clockwise by an angle and filter it; also say which of the pixels are known."""
    size = image.shape[-1]
    at = torch.arange(size, dtype=torch.float64, device=image.device) - (size - 1) / 2
    matrix = rotation(torch.tensor([angle], dtype=torch.float64, device=image.device))[0, :2, :2]
    around = torch.arange(1 - REACH, REACH + 1, device=image.device)
    rows, known = [], []
    for y in at:  # by rows, for 400 taps of each pixel
        x_from, y_from = matrix @ torch.stack([at, y.expand(size)]) + (size - 1) / 2
        columns, lines = x_from.floor().long()[:, None] + around, y_from.floor().long()[:, None] + around
        distance = torch.hypot((lines - y_from[:, None])[:, :, None], (columns - x_from[:, None])[:, None])
        taps = jinc(distance) * kaiser(distance)
        taps /= taps.sum((1, 2), keepdim=True)
        inside = [(index >= 0).all(1) & (index < size).all(1) for index in (columns, lines)]
        pixels = image[:, lines.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None]]
        rows.append((pixels * taps.to(image)).sum((2, 3)))
        known.append(inside[0] & inside[1])
    return torch.stack(rows, 1), torch.stack(known)


def jinc(distance: Tensor) -> Tensor:
    """Ideal low-pass filter for all directions, up to a factor, at distances in pixels."""
    x = 2 * math.pi * CUTOFF * distance.clamp(min=1e-6)
    response: Tensor = torch.special.bessel_j1(x) / x
    return response


def kaiser(distance: Tensor) -> Tensor:
    """Window at distances in pixels, 0 beyond the filters' reach (Kaiser 1974)."""
    inside = (1 - (distance / REACH).square()).clamp(min=0).sqrt()
    window: Tensor = torch.special.i0(BETA * inside) * (distance.abs() < REACH)
    return window
