"""Given pictures, changed along named attributes by a model that can encode them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.decode import Decoder, Preparation
from lightning_avatars.data.sources import Folder, find
from lightning_avatars.encoding import BATCH, Encoded, find_latents, size_of
from lightning_avatars.families.base import LatentModule
from lightning_avatars.images import save_sheet, sheet_of, to_bytes
from lightning_avatars.labels import assign, check_asked
from lightning_avatars.reading import file_names
from lightning_avatars.tools.device import device_of
from lightning_avatars.tools.sample import encode, writer

MOST_SHOWN = 16  # rows of the sheet


def edit(
    checkpoint: Path,
    pictures: Path,
    attributes: dict[str, float] | None = None,
    output: Path = Path("edited"),
    steps: int = 5,
    labels: str | None = None,
    data: FaceData | None = None,
    device: str = "auto",
) -> None:
    """Change given pictures along named attributes: single PNGs and a sheet of the first ones.

    An attribute's vector is the mean latent of labelled training pictures with it minus that of those without.

    Args:
        checkpoint: A checkpoint, written by ``fit``, of a model that encodes pictures; or exported weights.
        pictures: A picture, or a folder or zip of pictures; the largest centred square of each is resized.
        attributes: How many times each attribute's vector is added, such as ``{Smiling: 1.5, hair=curly: -1}``; by
            default pictures are only reconstructed.
        output: A folder, or a file ending in .zip, for the PNGs; the sheet lies beside or in it.
        steps: Columns of the sheet from a picture's reconstruction to the edited one.
        labels: For conditional models, what the pictures show, such as ``hair=curly``; the rest is the data's mean.
        data: Labelled pictures for the vectors; by default those that the model was trained on.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: The model can't encode pictures, a picture can't be read, or no label is called so.
    """
    module = load_module(checkpoint, device_of(device))
    if not isinstance(module, LatentModule) or not module.encodes:
        raise ValueError(
            f"{checkpoint} holds a {type(module).__name__}, which can't find the latents of given pictures: use an "
            "autoencoder, such as vae"
        )
    check_asked(labels, module.conditional, module.label_dropout, checkpoint)
    if data is not None and not attributes:
        raise ValueError("-c names pictures for the vectors of attributes: give --attributes too")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    channels, resolution, _ = size_of(module)
    names, images = read(pictures, Preparation(resolution, channels))
    encoded = Encoded(module, data)
    vectors = [strength * encoded.vector(name) for name, strength in (attributes or {}).items()]
    given = None if not module.conditional else shown_labels(module, labels).expand(len(images), -1)
    latents = find_latents(module, images, given)
    ways = latents[:, None] + amounts(steps, vectors, latents)
    edited = draw(module, ways[:, -1], given)
    with writer(output) as write:
        for name, image in zip(file_names(names), edited, strict=True):
            write(f"{name}.png", encode(image))
    sheet = sheet_of(output)
    first = ways[:MOST_SHOWN]
    repeated = None if given is None else given[: len(first)].repeat_interleave(first.shape[1], 0)
    drawn = draw(module, first.flatten(0, 1), repeated).unflatten(0, first.shape[:2])
    table = torch.cat([images[: len(first), None], drawn], 1)
    save_sheet(table.flatten(0, 1), table.shape[1], sheet)
    Console(stderr=True).print(f"{len(images)} pictures: [bold]{output}[/bold], sheet: [bold]{sheet}[/bold]")


def read(path: Path, preparation: Preparation) -> tuple[list[str], Tensor]:
    """Read a picture, or all of a folder or zip, prepared as bytes, N C H W, with their names."""
    path = path.expanduser()
    alone = path.is_file() and path.suffix.lower() != ".zip"
    source = Folder(path.parent) if alone else find(path)
    names, images = [path.name] if alone else source.names(), []
    decoder = Decoder(source, preparation)
    for name in names:
        decoded = decoder.one(name)
        if decoded.image is None:
            raise ValueError(f"{path if alone else path / name} can't be read: {decoded.error}")
        images.append(decoded.image)
    return names, torch.from_numpy(np.stack(images))


def shown_labels(module: LatentModule, labels: str | None) -> Tensor:
    """Labels of pictures, 1 L: those that are named, and the mean of some training pictures' for the rest."""
    if not len(module.label_rows):
        raise ValueError("this module has seen no labels: train it on labelled data")
    rows = module.label_rows.mean(0, keepdim=True).to(module.device)
    return assign(rows, labels, module.label_names) if labels else rows


def amounts(steps: int, vectors: list[Tensor], latents: Tensor) -> Tensor:
    """What is added to latents, N D, in each column of the sheet, columns x D: from nothing to all vectors' sum."""
    if not vectors:
        return torch.zeros_like(latents[:1])
    t = torch.linspace(0, 1, steps, device=latents.device)
    return t[:, None] * torch.stack(vectors).sum(0)


@torch.no_grad()
def draw(module: LatentModule, latents: Tensor, labels: Tensor | None) -> Tensor:
    """Draw latents, N D, with labels, N L, as images of bytes."""
    parts = latents.split(BATCH)
    given = [None] * len(parts) if labels is None else labels.split(BATCH)
    return torch.cat([to_bytes(module.decode(z, y)).cpu() for z, y in zip(parts, given, strict=True)])
