"""What a latent space holds: pictures on the way between others, along directions, and with styles mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.base import FaceData
from lightning_avatars.encoding import Encoded, find_latents
from lightning_avatars.exploration import factorised, linear, principal, spherical
from lightning_avatars.families.base import LatentModule
from lightning_avatars.images import save_sheet, to_bytes
from lightning_avatars.labels import asked_for, check_asked, groups
from lightning_avatars.latents import Codes
from lightning_avatars.networks.style import NoiseMode, StyleGenerator
from lightning_avatars.networks.stylegan2 import Noise
from lightning_avatars.seeding import seeded
from lightning_avatars.tools.device import device_of
from lightning_avatars.video import save_video

Way = Literal[
    "interpolation",
    "truncation",
    "mixing",
    "noise",
    "factorisation",
    "principal",
    "codes",
    "attributes",
    "traversal",
    "pictures",
    "vectors",
]
STYLES_SEEN = 10_000  # of which the principal directions are found


@dataclass(frozen=True)
class Look:
    """What is shown.

    Args:
        module: Makes the pictures.
        seeds: One for each row.
        steps: Pictures of a row.
        reach: Standard deviations to either side along a direction.
        labels: Named labels of all pictures.
        encoded: Pictures that a module which can encode is shown.
        attributes: Labels whose vectors are shown; all by default.
    """

    module: LatentModule
    seeds: Tensor
    steps: int
    reach: float
    labels: str | None
    encoded: Encoded | None = None
    attributes: list[str] | None = None

    @cached_property
    def shown(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Held-out pictures, one of each seed: bytes, their latents, and the labels they are decoded with."""
        assert self.encoded is not None
        images, labels = self.encoded.pictures("test", self.seeds)
        latents = find_latents(self.module, images, labels)
        if not self.module.conditional:
            return images, latents, None
        return images, latents, asked_for(labels, self.labels, self.module.label_names)

    def moved(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Draw latents, rows x steps x D, with each row's labels, as images of bytes, rows x steps C H W."""
        given = None if labels is None else labels.to(latents.device).repeat_interleave(latents.shape[1], 0)
        return decode_rows(self.module, latents, given)

    @property
    def styles(self) -> StyleGenerator | None:
        """The generator, where it has styles."""
        network = self.module.sampler
        return network if isinstance(network, StyleGenerator) else None

    def given(self, seeds: Tensor) -> Tensor | None:
        """Labels for each of these pictures; None for unconditional models."""
        if not self.module.conditional:
            return None
        return asked_for(self.module.draw_labels(seeds), self.labels, self.module.label_names)

    def rows(self, latents: Tensor) -> Tensor:
        """Draw latents, rows x steps x D, as images of bytes, rows x steps C H W; a row has one seed's labels."""
        seeds = self.seeds[: len(latents)].repeat_interleave(latents.shape[1])
        return decode_rows(self.module, latents, self.given(seeds))

    def row_of_styles(self, styles: Tensor) -> Tensor:
        """Draw styles, N x D or N x layers x D, as images of bytes."""
        network = self.styles
        assert network is not None
        return to_bytes(network.synthesis(network.spread(styles) if styles.ndim == 2 else styles, "constant"))


def decode_rows(module: LatentModule, latents: Tensor, labels: Tensor | None) -> Tensor:
    """Draw latents, rows x steps x D, with labels of each, as images of bytes, rows x steps C H W."""
    return to_bytes(module.decode(latents.flatten(0, 1), labels)).unflatten(0, latents.shape[:2])


def interpolation(look: Look) -> dict[str, Tensor]:
    """Each row goes from one seed to the next: in a straight line, and along a sphere where latents are normal."""
    ends, t = look.module.latents(look.seeds), torch.linspace(0, 1, look.steps, device=look.module.device)
    pairs = list(zip(ends, ends.roll(-1, 0), strict=True))
    found = {"interpolation_linear": look.rows(torch.stack([linear(a, b, t) for a, b in pairs]))}
    if look.module.normal:
        found["interpolation_spherical"] = look.rows(torch.stack([spherical(a, b, t) for a, b in pairs]))
    return found


def truncation(look: Look) -> dict[str, Tensor]:
    """Each row goes from the mean style (psi = 0) to a seed's own (psi = 1)."""
    if look.styles is None:
        return {}
    rows = [
        look.module.sample(look.seeds, look.given(look.seeds), float(psi)) for psi in torch.linspace(0, 1, look.steps)
    ]
    return {"truncation": to_bytes(torch.stack(rows, 1))}


def mixing(look: Look) -> dict[str, Tensor]:
    """Coarse, middle and fine styles of the left column's seeds are replaced by those of the top row's."""
    network = look.styles
    if network is None:
        return {}
    others = int(look.seeds.max()) + 1 + torch.arange(look.steps - 1)
    rows, top = (network.mapping(look.module.latents(seeds), look.given(seeds)) for seeds in (look.seeds, others))
    bounds = torch.linspace(0, network.styles, 4).round().int().tolist()
    found = {}
    for name, first, last in zip(("coarse", "middle", "fine"), bounds, bounds[1:], strict=False):
        mixed = network.spread(rows)[:, None].repeat(1, len(others), 1, 1)
        mixed[:, :, first:last] = network.spread(top)[None, :, first:last]
        pictures = look.row_of_styles(mixed.flatten(0, 1)).unflatten(0, (len(rows), len(others)))
        table = torch.cat([look.row_of_styles(rows)[:, None], pictures], 1)
        header = torch.cat([torch.full_like(table[:1, 0], 255), look.row_of_styles(top)])
        found[f"mixing_{name}"] = torch.cat([header[None], table])
    return found


def noise(look: Look) -> dict[str, Tensor]:
    """Each row is a seed with the network's own noise, with none, and with other noise in every further picture."""
    network = look.styles
    if network is None or not any(isinstance(module, Noise) for module in network.modules()):
        return {}
    styles = network.spread(network.mapping(look.module.latents(look.seeds), look.given(look.seeds)))
    modes: list[NoiseMode] = ["constant", "none"]
    modes += ["random"] * (look.steps - len(modes))
    with seeded(int(look.seeds[0]), styles.device):
        return {"noise": to_bytes(torch.stack([network.synthesis(styles, mode) for mode in modes], 1))}


def factorisation(look: Look) -> dict[str, Tensor]:
    """Each row moves the first seed along a direction that its generator's first layers amplify most."""
    weight = look.module.sampler.entry
    if weight is None:
        return {}
    directions = factorised(weight.detach(), min(len(look.seeds), weight.shape[1]))
    return {"factorisation": along(look, directions, torch.ones(len(directions), device=weight.device))}


def principal_directions(look: Look) -> dict[str, Tensor]:
    """Each row moves the first seed along a direction in which styles vary most."""
    network = look.styles
    # Without styles they are factorisation's: W z of normal z varies most along W's left singular vectors, and what
    # leads there are its right ones (GANSpace, Sec. 2.2).
    if network is None:
        return {}
    seen = torch.arange(STYLES_SEEN)
    styles = network.mapping(look.module.latents(seen), look.given(seen))
    return {"principal": along(look, *principal(styles, min(len(look.seeds), styles.shape[1])))}


def along(look: Look, directions: Tensor, deviations: Tensor) -> Tensor:
    """Move the first seed's style, or latent, along each direction by deviations from -reach to reach."""
    seed = look.seeds[:1]
    start = look.module.latents(seed)
    if look.styles is not None:
        start = look.styles.mapping(start, look.given(seed))
    t = torch.linspace(-look.reach, look.reach, look.steps, device=start.device)
    moved = start + t[None, :, None] * (deviations[:, None] * directions)[:, None]
    if look.styles is not None:
        return look.row_of_styles(moved.flatten(0, 1)).unflatten(0, moved.shape[:2])
    labels = look.given(seed.expand(moved.shape[0] * moved.shape[1]))
    return decode_rows(look.module, moved, labels)


def codes(look: Look) -> dict[str, Tensor]:
    """InfoGAN: each row is a seed; columns are the values of a categorical code, or a continuous one from -2 to 2."""
    prior = look.module.prior
    if not isinstance(prior, Codes):
        return {}
    latents, found, first = look.module.latents(look.seeds), {}, prior.noise
    for number, values in enumerate(prior.categorical):
        moved = latents[:, None].repeat(1, values, 1)
        moved[..., first : first + values] = torch.eye(values, device=latents.device)
        found[f"code_{number}"], first = look.rows(moved), first + values
    for number in range(prior.continuous):
        moved = latents[:, None].repeat(1, look.steps, 1)
        moved[..., first + number] = torch.linspace(-2, 2, look.steps, device=latents.device)
        found[f"code_{len(prior.categorical) + number}"] = look.rows(moved)
    return found


def attributes(look: Look) -> dict[str, Tensor]:
    """Conditional models: each row is a seed, columns are the values of a group of labels, or one label off and on."""
    if not look.module.conditional:
        return {}
    latents, rows, found = look.module.latents(look.seeds), look.given(look.seeds), {}
    assert rows is not None
    for group, columns in groups(look.module.label_names).items():
        width = columns.stop - columns.start
        values = torch.eye(width) if width > 1 else torch.tensor([[0.0], [1.0]])
        labels = rows[:, None].repeat(1, len(values), 1)
        labels[..., columns] = values.to(labels)
        images = look.module.decode(latents.repeat_interleave(len(values), 0), labels.flatten(0, 1))
        found[f"attribute_{group}"] = to_bytes(images).unflatten(0, (len(latents), len(values)))
    return found


def traversal(look: Look) -> dict[str, Tensor]:
    """Autoencoders: each row moves one entry of a picture's latents, those first that vary most over pictures."""
    if look.encoded is None:
        return {}
    _, latents, labels = look.shown
    moments = look.encoded.moments
    entries = moments.deviation.argsort(descending=True, stable=True)[: len(look.seeds)]
    t = torch.linspace(-look.reach, look.reach, look.steps, dtype=torch.float64)
    values = moments.mean[entries, None] + moments.deviation[entries, None] * t
    moved = latents[:1, None].repeat(len(entries), look.steps, 1)
    moved[torch.arange(len(entries)), :, entries] = values.to(moved)
    return {"traversal": look.moved(moved, None if labels is None else labels[:1].expand(len(entries), -1))}


def pictures(look: Look) -> dict[str, Tensor]:
    """Autoencoders: each row goes from a held-out picture's reconstruction to the next one's, between the pictures."""
    if look.encoded is None:
        return {}
    images, latents, labels = look.shown

    def between(ends: Tensor) -> Tensor:
        t = torch.linspace(0, 1, look.steps, device=ends.device)
        return torch.stack([linear(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)])

    given = None if labels is None else between(labels.to(latents.device)).flatten(0, 1)
    drawn = decode_rows(look.module, between(latents), given).cpu()
    return {"pictures": torch.cat([images[:, None], drawn, images.roll(-1, 0)[:, None]], 1)}


def vectors(look: Look) -> dict[str, Tensor]:
    """Autoencoders: each row moves a held-out picture, in the first column, along a label's vector."""
    if look.encoded is None:
        return {}
    images, latents, labels = look.shown
    found = {}
    for name in look.attributes or look.encoded.varied:
        t = torch.linspace(-look.reach, look.reach, look.steps, device=latents.device) / 2  # halves lead to the means
        way = latents[:, None] + t[None, :, None] * look.encoded.vector(name)
        found[f"vector_{name}"] = torch.cat([images[:, None], look.moved(way, labels).cpu()], 1)
    return found


WAYS: dict[Way, Callable[[Look], dict[str, Tensor]]] = {
    "interpolation": interpolation,
    "truncation": truncation,
    "mixing": mixing,
    "noise": noise,
    "factorisation": factorisation,
    "principal": principal_directions,
    "codes": codes,
    "attributes": attributes,
    "traversal": traversal,
    "pictures": pictures,
    "vectors": vectors,
}


def explore(
    checkpoint: Path,
    ways: list[Way] | None = None,
    output: Path = Path("explored"),
    seed: int = 0,
    rows: int = 6,
    steps: int = 9,
    reach: float = 3.0,
    labels: str | None = None,
    attributes: list[str] | None = None,
    data: FaceData | None = None,
    video: Literal["gif", "mp4", "none"] = "gif",
    frames: int = 24,
    device: str = "auto",
) -> None:
    """Walk through a model's latent space: sheets of pictures, and a film from seed to seed.

    Args:
        checkpoint: A checkpoint written by ``fit``, or exported weights.
        ways: What to show; by default all that this model allows.
        output: Folder of the sheets and the film.
        seed: Seed of the first row; the others count up.
        rows: Rows of a sheet.
        steps: Pictures of a row.
        reach: How far to go to either side along a direction, in standard deviations; in halves of a label's vector.
        labels: For conditional models, such as ``hair=curly``; the rest is drawn from the data; or ``none``.
        attributes: For autoencoders, the labels whose vectors are shown, such as ``[hair=curly]``; all by default.
        data: For autoencoders, the pictures shown to it and directions found from; by default those it was trained on.
        video: A film through all rows' seeds; ``mp4`` needs PyAV (``pip install lightning-avatars[video]``).
        frames: Frames from one seed to the next.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: The checkpoint has no latent space, or a way leads nowhere in this one.
    """
    module = load_module(checkpoint, device_of(device))
    if not isinstance(module, LatentModule):
        raise ValueError(f"{checkpoint} holds a {type(module).__name__}, which has no latent space to explore")
    if rows < 1 or steps < 2 or frames < 1:
        raise ValueError(f"rows and frames must be at least 1 and steps 2, got {rows}, {frames} and {steps}")
    check_asked(labels, module.conditional, module.label_dropout, checkpoint)
    if not module.encodes and (data is not None or attributes is not None):
        raise ValueError(
            f"--attributes and -c are for models that encode pictures, but {checkpoint} holds a {type(module).__name__}"
        )
    encoded = Encoded(module, data) if module.encodes else None
    look = Look(module, torch.arange(seed, seed + rows), steps, reach, labels, encoded, attributes)
    say = Console(stderr=True).print
    with torch.no_grad():
        for way in ways or WAYS:
            sheets = WAYS[way](look)
            if ways and not sheets:
                raise ValueError(f"{type(module.sampler).__name__} of {checkpoint} has no {way}: {WAYS[way].__doc__}")
            for name, images in sheets.items():
                save_sheet(images.flatten(0, 1), images.shape[1], output / f"{name}.png")
                say(f"{name}: [bold]{output / name}.png[/bold]", soft_wrap=True)
        if video != "none":
            path = output / f"film.{video}"
            save_video(film(look, frames), path)
            say(f"film: [bold]{path}[/bold]", soft_wrap=True)


def film(look: Look, frames: int) -> Tensor:
    """Go round through all seeds, ``frames`` images of bytes from each to the next."""
    between = spherical if look.module.normal else linear
    ends, t = look.module.latents(look.seeds), torch.arange(frames, device=look.module.device) / frames
    way = torch.cat([between(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)])
    labels = look.given(look.seeds[:1].expand(len(way)))
    return torch.cat(
        [to_bytes(look.module.decode(z, None if labels is None else labels[: len(z)])) for z in way.split(64)]
    )
