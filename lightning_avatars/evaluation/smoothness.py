"""How smoothly a generator draws: path lengths between latents, and how exactly pictures follow moves and turns."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from lightning_avatars.evaluation.pairs import means
from lightning_avatars.evaluation.passport import device_name, versions
from lightning_avatars.evaluation.real import BLOCK
from lightning_avatars.evaluation.scores import Result, Score, check_enough, size_name
from lightning_avatars.families.base import GenerativeModule, LatentModule
from lightning_avatars.metrics.equivariance import equivariance
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.perceptual_path_length import Space, inliers, perceptual_path_length
from lightning_avatars.networks.base import Generator
from lightning_avatars.networks.style import StyleGenerator
from lightning_avatars.networks.stylegan3 import StyleGAN3Generator


def check_smoothness(module: GenerativeModule | None, count: int | None, perceptual: Sequence[LPIPS]) -> None:
    """Raise a ValueError where smoothness is asked for and there is nothing to be measured, or too few latents."""
    if count is None:
        return
    check_enough(count, "are to be drawn from")
    if not isinstance(module, LatentModule) or not isinstance(module.sampler, Generator):
        what = "a folder" if module is None else type(module).__name__
        raise ValueError(f"smoothness is measured of GANs, whose generators draw from latents, and {what} is none")
    styled = isinstance(module.sampler, StyleGenerator)
    if perceptual and not styled and not module.normal:
        raise ValueError(
            f"path lengths run between styles or between normal latents, and {type(module.sampler).__name__} with the "
            f"prior {type(module.prior).__name__} has neither"
        )
    if not perceptual and not isinstance(module.sampler, StyleGAN3Generator):
        raise ValueError(
            "path lengths are perceptual distances: give --perceptual too, vgg for what papers have; only of StyleGAN3 "
            "there is something to be measured without"
        )
    side = min(module.sample(torch.arange(1)).shape[2:])
    for network in perceptual:
        if side < network.least_side:
            raise ValueError(
                f"{network.name} needs images of at least {network.least_side} pixels a side, and "
                f"{type(module.sampler).__name__} draws {side}: leave --smoothness out, or use another network"
            )


@torch.no_grad()
def score_smoothness(module: LatentModule, perceptual: Sequence[LPIPS], count: int, block: int = BLOCK) -> Result:
    """Measure how smoothly a module's generator draws from the latents of the seeds 0 … ``count`` - 1.

    ``ppl_w_<lpips>`` is the perceptual path length at the beginning of paths between styles, without a crop (StyleGAN2,
    Sec. 3.2: with VGG16 and 100,000 paths); of generators without styles ``ppl_z_<lpips>``, on the sphere of latents.
    Of StyleGAN3 there are ``eq_t``, ``eq_t_frac`` and ``eq_r``, in dB (``metrics.equivariance``). Nothing is truncated.

    Args:
        module: The module; its averaged weights are measured where it has some.
        perceptual: LPIPS networks, on the module's device.
        count: Paths, and pictures that are moved and turned.
        block: Pictures drawn at a time.

    Raises:
        ValueError: ``check_smoothness`` says why.
    """
    check_smoothness(module, count, perceptual)
    started, generator, seeds = time.monotonic(), module.sampler, torch.arange(count)
    assert isinstance(generator, Generator)
    labels = module.draw_labels(seeds) if module.conditional else None
    space: Space = "w" if isinstance(generator, StyleGenerator) else "z"
    scores: dict[str, Score] = {}
    for network in perceptual:
        found = perceptual_path_length(
            generator, network.distances, seeds, space, labels=labels, prior=module.prior, batch_size=block
        )
        name = f"ppl_{space}_{network.name}"
        kept = means({name: inliers(found.lengths)}, {name: network.name})
        scores |= {f"{name}_{size_name(count)}": score for score in kept.values()}
    if isinstance(generator, StyleGAN3Generator):
        latents = module.prior.of_seeds(seeds, generator.latent_dim).to(module.device)
        decibels = equivariance(generator, latents, labels, batch=block)
        scores |= {f"{name}_{size_name(count)}": Score(value) for name, value in decibels.items()}
    passport = {
        "images": count, "seeds": [0, count - 1], "block": block, "weights": "average" if module.averaged else "last",
        "truncation_psi": 1.0, "labels": "training pictures" if module.conditional else None, "rounding": None,
        "reference": None, "held_out": None, "extractors": {n.name: {"sha256": n.sha256} for n in perceptual},
        "device": device_name(module.device), "versions": versions(),
    }  # fmt: skip
    return Result("smoothness", scores, {}, time.monotonic() - started, passport)
