"""The 18 augmentations of Karras et al. 2020 ("Training generative adversarial networks with limited data", App. B).

Departures: the warp's filters (see ``warp``); and an image that no transformation of a group has hit is not touched by
that group, so that at p = 0 images stay what they are, bit for bit.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn

from lightning_avatars.augment.colour import recolour
from lightning_avatars.augment.filters import equalize
from lightning_avatars.augment.warp import compose, rotation, scaling, translation, warp
from lightning_avatars.seeding import Draws

COUNTS = [3, 5, 5, 4, 1, 1]  # draws of the six groups; of the five in geometry two are the one rotation
UNIFORM, NORMAL = 10, 12  # numbers that the transformations take


class AdaptiveAugment(nn.Module):
    """Show the discriminator altered images, so that it can't learn a small dataset by heart.

    Each transformation hits an image with probability ``p`` times the share of its group. ``p`` is a buffer: the term
    ``AdaptiveStrength`` moves it, a schedule sets it (``scheduled: {augment.p: …}``), or it stays what it is.

    Args:
        p: Probability, or where it starts, from 0 to 1; above 0.8 alterations begin to leak into samples.
        blit: Share of flips, quarter turns and whole translations, which copy pixels.
        geometry: Share of scaling, rotation, stretching and translation.
        colour: Share of brightness, contrast, luma flips, hue and saturation; for images of 1 or 3 channels.
        filters: Share of amplified and weakened frequency bands.
        corruption: Share of noise, and of cutout. Every process makes the noise of all images: on many it takes time.
        cutout: Share of cutout alone; by default that of ``corruption``.
    """

    p: Tensor
    shares: Tensor
    rotates: Tensor

    def __init__(
        self,
        p: float = 0.0,
        blit: float = 1.0,
        geometry: float = 1.0,
        colour: float = 1.0,
        filters: float = 0.0,
        corruption: float = 0.0,
        cutout: float | None = None,
    ) -> None:
        super().__init__()
        groups = {
            "blit": blit, "geometry": geometry, "colour": colour, "filters": filters, "corruption": corruption,
            "cutout": corruption if cutout is None else cutout,
        }  # fmt: skip
        for name, value in ({"p": p} | groups).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the augmentation is a probability, from 0 to 1, got {value}")
        self.moves, self.recolours = blit > 0 or geometry > 0, colour > 0
        self.equalizes, self.adds_noise, self.cuts_out = filters > 0, corruption > 0, groups["cutout"] > 0
        shares = torch.tensor(list(groups.values())).repeat_interleave(torch.tensor(COUNTS), output_size=sum(COUNTS))
        self.initial = p
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("shares", shares, persistent=False)
        rotates = torch.zeros(sum(COUNTS), dtype=torch.bool)
        rotates[[4, 6]] = True
        self.register_buffer("rotates", rotates, persistent=False)

    def chances(self) -> Tensor:
        """Probability of every transformation; at least one of the two rotations happens with that of the others."""
        chances = self.p.clamp(0, 1) * self.shares
        return torch.where(self.rotates, 1 - (1 - chances).sqrt(), chances)

    def forward(self, images: Tensor, draws: Draws, stream: str) -> Tensor:
        """Alter images, N C H W about in [-1, 1]; ``stream`` names their draws."""
        if not any((self.moves, self.recolours, self.equalizes, self.adds_noise, self.cuts_out)):
            return images
        u = draws.uniform(f"{stream}/augment", sum(COUNTS) + UNIFORM)
        z = draws.normal(f"{stream}/augment/normal", NORMAL)
        hit, u = u[:, : sum(COUNTS)] < self.chances(), u[:, sum(COUNTS) :]
        blit, geometry, colour, bands, noise, cutout = torch.split(hit, COUNTS, 1)
        x = images
        with torch.autocast(x.device.type, enabled=False):
            if self.moves:
                height, width = x.shape[2:]
                blits = blitting(blit, u[:, :4], height, width)
                x = warp(x, compose(blits, movement(geometry, u[:, 4:6], z[:, :4], height, width)))
            if self.recolours:
                x = recolour(x, *colouring(colour, u[:, 6:8], z[:, 4:7]))
            if self.equalizes:
                x = equalize(x, amplification(bands, z[:, 7:11]))
            if self.adds_noise:
                strength = torch.where(noise[:, 0], 0.1 * z[:, 11].abs(), 0)[:, None, None, None]
                x = x + strength * draws.normal(f"{stream}/augment/noise", *x.shape[1:])
            if self.cuts_out:
                x = cut_out(x, cutout[:, 0], u[:, 8:10])
        return x


def blitting(hit: Tensor, u: Tensor, height: int, width: int) -> Tensor:
    """Inverse matrices of x-flip, quarter turns and whole translations (Fig. 17, lines 5 to 15).

    Args:
        hit: N x 3, which of them are applied.
        u: N x 4, uniform numbers.
        height: Of the images.
        width: Of the images.
    """
    flip = torch.where(hit[:, 0], 1 - 2 * (2 * u[:, 0]).floor(), 1)
    angle = torch.where(hit[:, 1], (4 * u[:, 1]).floor() * (pi / 2), 0)
    steps = torch.stack([(u[:, 2] - 0.5) / 4 * width, (u[:, 3] - 0.5) / 4 * height]).round()
    x, y = torch.where(hit[:, 2], steps, 0)
    turn = rotation(angle.cos().round(), -angle.sin().round())
    return compose(scaling(flip, torch.ones_like(flip)), turn, translation(-x, -y))


def movement(hit: Tensor, u: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    """Inverse matrices of scaling, rotation, stretching, rotation and translation (Fig. 17, lines 16 to 32).

    Args:
        hit: N x 5, which of them are applied.
        u: N x 2, uniform numbers.
        z: N x 4, normal numbers.
        height: Of the images.
        width: Of the images.
    """
    smaller = torch.where(hit[:, 0], (-0.2 * z[:, 0]).exp2(), 1)
    before = torch.where(hit[:, 1], (2 * pi) * (u[:, 0] - 0.5), 0)
    after = torch.where(hit[:, 3], (2 * pi) * (u[:, 1] - 0.5), 0)
    narrower = torch.where(hit[:, 2], (-0.2 * z[:, 1]).exp2(), 1)
    x, y = torch.where(hit[:, 4], torch.stack([z[:, 2] * (width / 8), z[:, 3] * (height / 8)]), 0)
    return compose(
        scaling(smaller, smaller),
        rotation(before.cos(), -before.sin()),
        scaling(narrower, 1 / narrower),
        rotation(after.cos(), -after.sin()),
        translation(-x, -y),
    )


def colouring(hit: Tensor, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Brightness, contrast, luma, hue and saturation, N each (Fig. 17, lines 48 to 70).

    Args:
        hit: N x 5, which of them are applied.
        u: N x 2, uniform numbers.
        z: N x 3, normal numbers.
    """
    brightness = torch.where(hit[:, 0], 0.2 * z[:, 0], 0)
    contrast = torch.where(hit[:, 1], (0.5 * z[:, 1]).exp2(), 1)
    luma = torch.where(hit[:, 2], 1 - 2 * (2 * u[:, 0]).floor(), 1)
    hue = torch.where(hit[:, 3], (2 * pi) * (u[:, 1] - 0.5), 0)
    saturation = torch.where(hit[:, 4], z[:, 2].exp2(), 1)
    return brightness, contrast, luma, hue, saturation


def amplification(hit: Tensor, z: Tensor) -> Tensor:
    """Gains of the four bands, N x 4, that keep the power of a natural spectrum (Fig. 18).

    Args:
        hit: N x 4, which bands are amplified, one after the other.
        z: N x 4, normal numbers.
    """
    power = torch.where(hit, (2 * z).exp2(), 1)  # squares of the four factors
    share = power.new_full((4,), 1 / 13)
    share[0] = 10 / 13
    norms = (1 + share * (power - 1)).sqrt()  # the shares add up to one; where not hit, this is exactly one
    return power.sqrt() / norms.prod(1, keepdim=True)


def cut_out(images: Tensor, hit: Tensor, centre: Tensor) -> Tensor:
    """Fill with zeros a rectangle of half the size around ``centre``, N x 2 from 0 to 1 (Fig. 18)."""
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width - centre[:, :1]
    y = (torch.arange(height, device=images.device) + 0.5) / height - centre[:, 1:]
    inside = ((x >= -0.25) & (x < 0.25))[:, None] & ((y >= -0.25) & (y < 0.25))[:, :, None]
    return images.masked_fill((inside & hit[:, None, None])[:, None], 0)
