"""Perceptual path length: how much images change along short paths between latents (StyleGAN, Sec. 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lightning_avatars.latents import Gaussian, Prior
from lightning_avatars.metrics.extractors.base import full_float32
from lightning_avatars.metrics.processes import add_up, exact, shares
from lightning_avatars.networks.base import Generator
from lightning_avatars.networks.style import StyleGenerator
from lightning_avatars.seeding import uniform_at

Space = Literal["w", "z"]
Sampling = Literal["full", "end"]
LARGEST = 256  # images are averaged down to this, as faces of 1024 x 1024 were for the published figures


class PathLengths(NamedTuple):
    """The mean over paths, and the paths' own lengths."""

    mean: float
    lengths: Tensor  # N, float64, before any is left out


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Go from ``a`` to ``b``, N x dim, on the sphere of radius the root of dim, by shares ``t``, N x 1."""
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = b - cosine * a
    across = across / across.norm(dim=1, keepdim=True).clamp(min=1e-12)
    point: Tensor = (a * angle.cos() + across * angle.sin()) * math.sqrt(a.shape[1])
    return point


def inliers(lengths: Tensor, share: float = 0.01) -> Tensor:
    """Keep those from the lower to the upper quantile of this share, both among them."""
    low, high = (torch.quantile(lengths, q, interpolation=how) for q, how in ((share, "lower"), (1 - share, "higher")))
    return lengths[(lengths >= low) & (lengths <= high)]


@torch.no_grad()
def perceptual_path_length(
    generator: Generator,
    distance: Callable[[Tensor, Tensor], Tensor],
    seeds: Tensor,
    space: Space = "w",
    sampling: Sampling = "end",
    epsilon: float = 1e-4,
    labels: Tensor | None = None,
    prior: Prior | None = None,
    trim: bool = True,
    batch_size: int = 16,
) -> PathLengths:
    """Measure the mean of ``distance(image(t), image(t + epsilon)) / epsilon^2`` over paths between two latents.

    Each seed is one path. Processes share the work, and all return the same. Published figures have VGG16's LPIPS and
    100,000 paths: ``full`` and a crop of the face in StyleGAN, ``end``, W and no crop in StyleGAN2.

    Args:
        generator: The generator; W asks for a ``StyleGenerator``. Its noise stays constant.
        distance: Perceptual distances, N, of two batches of images, N 3 H W, floats from 0 to 255 that are not rounded:
            ``LPIPS("vgg").distances``.
        seeds: Seeds of the paths, N.
        space: Where paths run: straight in the styles' space W, or on the sphere in the latents' space Z.
        sampling: Where on its path an image is made: at a random place, or at its beginning.
        epsilon: Length of the step, as a share of the path.
        labels: Labels of the paths, N x label_dim, where the generator is conditional.
        prior: Distribution of the latents; standard normal by default.
        trim: Leave the shortest and the longest hundredth of the paths out, as published.
        batch_size: Paths at once.

    Raises:
        ValueError: There are no paths, or W is asked for and the generator has none.
    """
    if not len(seeds):
        raise ValueError("perceptual path length needs at least one path: give seeds")
    if space == "z":
        draw = partial(between_latents, generator)
    elif isinstance(generator, StyleGenerator):
        draw = partial(between_styles, generator)
    else:
        raise ValueError(f"{type(generator).__name__} has no space W (it is no StyleGenerator): measure in space 'z'")
    prior, device = prior or Gaussian(), next(generator.parameters()).device
    places = torch.from_numpy(uniform_at(0, "path", seeds.cpu().numpy())) * (sampling == "full")
    lengths = torch.zeros(len(seeds), dtype=torch.float64, device=exact(device))
    training = generator.training
    generator.eval()
    with torch.autocast(device.type, enabled=False), full_float32():
        for some in shares(len(seeds), batch_size):
            start, stop = (prior.of_seeds(2 * seeds[some] + i, generator.latent_dim).to(device) for i in (0, 1))
            t = places[some, None].to(lengths)
            given = labels[some].to(device) if labels is not None else None
            a, b = (prepared(draw(start, stop, place, given)) for place in (t, t + epsilon))
            lengths[some] = distance(a, b).to(lengths) / epsilon**2
    generator.train(training)
    add_up(lengths)
    return PathLengths((inliers(lengths) if trim else lengths).mean().item(), lengths)


def between_styles(generator: StyleGenerator, start: Tensor, stop: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Draw images on straight paths between the styles of two latents."""
    start, stop = generator.mapping(start, labels), generator.mapping(stop, labels)
    styles = torch.lerp(start.to(t), stop.to(t), t).to(start)  # in float64, for steps are short
    return generator.synthesis(generator.spread(styles), "constant")


def between_latents(generator: Generator, start: Tensor, stop: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """Draw images on arcs between two latents."""
    images: Tensor = generator(slerp(start.to(t), stop.to(t), t).to(start), labels)
    return images


def prepared(image: Tensor) -> Tensor:
    """Bring images to 0 … 255, average those larger than 256 x 256 down to it, and give grey ones three channels."""
    factor = image.shape[2] // LARGEST
    image = avg_pool2d(image, factor) if factor > 1 else image
    return image.add(1).mul(127.5).expand(-1, 3, -1, -1)
