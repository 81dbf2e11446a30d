"""Pictures from a trained generator."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_avatars.checkpoints import load_module
from lightning_avatars.families.autoregressive import Autoregressive
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.images import save_sheet, sheet_of, to_bytes, to_picture
from lightning_avatars.labels import asked_for, check_asked
from lightning_avatars.networks.sequence import TokenSampling
from lightning_avatars.tools.device import device_of


def sample(
    checkpoint: Path,
    count: int = 64,
    output: Path = Path("samples"),
    seed: int = 0,
    seeds: list[int] | None = None,
    labels: str | None = None,
    truncation_psi: float = 1.0,
    temperature: float | None = None,
    top_k: int | None = None,
    nucleus: float | None = None,
    guidance: float | None = None,
    columns: int = 8,
    batch_size: int = 250,
    device: str = "auto",
) -> None:
    """Draw pictures from a trained generator: single PNGs and a sheet of the first ones.

    Args:
        checkpoint: A checkpoint written by ``fit``; nothing else is needed.
        count: How many pictures.
        output: A folder, or a file ending in .zip, for ``seed_<seed>.png``; the sheet lies beside or in it.
        seed: Seed of the first picture; the others count up.
        seeds: The seeds themselves, in place of ``seed`` and ``count``.
        labels: For conditional models, such as ``hair=curly,accessories=round``; the rest is drawn from the data.
            ``none`` for no labels at all, where the model has learned to draw so (``label_dropout``).
        truncation_psi: Below 1, pictures nearer to the mean one, in networks with truncation.
        temperature: Of models that draw pictures code by code: below 1, likely codes become likelier. This and the
            next three are by default as the model was configured.
        top_k: Of such models: only so many of the likeliest codes are drawn from.
        nucleus: Of such models: only the likeliest codes that together have this probability are drawn from.
        guidance: Of such models that learned with and without labels: how much labels count, 1 for no more than in
            the data.
        columns: Pictures in a row of the sheet.
        batch_size: Pictures made at a time.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: the checkpoint makes no pictures, takes no such labels, or can't draw so.
    """
    module = load_module(checkpoint, device_of(device))
    if not isinstance(module, GenerativeModule):
        raise ValueError(f"{checkpoint} holds a {type(module).__name__}, which makes no pictures")
    if not module.samples:
        raise ValueError(f"{checkpoint} makes its pictures of others: use `lightning-avatars translate`")
    check_asked(labels, module.conditional, module.label_dropout, checkpoint)
    draw_codes(module, temperature=temperature, top_k=top_k, nucleus=nucleus, guidance=guidance)
    for name, number in (("count", count if not seeds else 1), ("columns", columns), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    wanted = torch.tensor(seeds or range(seed, seed + count))
    if wanted.min() < 0:
        raise ValueError(f"seeds must be 0 or more, got {int(wanted.min())}")
    shown: list[Tensor] = []
    draw(module, wanted[:1], labels, truncation_psi)  # what can't be drawn fails before the output is opened
    with writer(output) as write, ThreadPoolExecutor() as pool:
        chunks = wanted.split(batch_size)
        for chunk in track(chunks, "drawing", console=Console(stderr=True), disable=len(wanted) < 1000):
            images = draw(module, chunk, labels, truncation_psi)
            names = [f"seed_{s:06d}.png" for s in chunk.tolist()]
            for name, encoded in zip(names, pool.map(encode, images), strict=True):
                write(name, encoded)
            if sum(map(len, shown)) < 64:
                shown.append(images)
    sheet = sheet_of(output)
    save_sheet(torch.cat(shown)[:64], columns, sheet)
    Console(stderr=True).print(f"{len(wanted)} pictures: [bold]{output}[/bold], sheet: [bold]{sheet}[/bold]")


def draw_codes(module: GenerativeModule, **options: float | None) -> None:
    """Let a module draw its codes by those options that are given; raise where it draws none, or not so."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return
    if not isinstance(module, Autoregressive):
        raise ValueError(
            f"--{next(iter(given))} says how pictures are drawn code by code, which {type(module).__name__} does not "
            "do: leave it out, or give a checkpoint of a model such as vqgan_prior"
        )
    module.sampling = TokenSampling(**vars(module.sampling) | given)
    module.check()


def draw(module: GenerativeModule, seeds: Tensor, labels: str | None, truncation_psi: float) -> Tensor:
    """Draw images of bytes, N C H W, with the named labels set and the others drawn from the data, or without any."""
    given = None if labels is None else asked_for(module.draw_labels(seeds), labels, module.label_names)
    return to_bytes(module.sample(seeds, given, truncation_psi)).cpu()


def encode(image: Tensor) -> bytes:
    """Encode one image of bytes as a PNG, fast rather than small."""
    file = io.BytesIO()
    to_picture(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


@contextmanager
def writer(output: Path) -> Iterator[Callable[[str, bytes], object]]:
    """Open a folder or a zip for writing files by name."""
    if output.suffix == ".zip":
        output.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
            yield archive.writestr
    else:
        output.mkdir(parents=True, exist_ok=True)
        yield lambda name, content: (output / name).write_bytes(content)
