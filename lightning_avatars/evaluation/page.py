"""A page of pictures: samples, their nearest training pictures, samples by attribute, best and worst pairs."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_avatars.data.pictures import Pictures, StorePictures
from lightning_avatars.evaluation.real import Real, spread
from lightning_avatars.evaluation.reconstructions import UNTRANSLATED, SetScores
from lightning_avatars.evaluation.samples import RealPictures
from lightning_avatars.evaluation.scores import direction
from lightning_avatars.evaluation.track import on_screen
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.images import save_sheet, to_bytes
from lightning_avatars.labels import assign, groups
from lightning_avatars.metrics.extractors.pixels import Pixels
from lightning_avatars.metrics.neighbours import nearest

SEARCHED = 250  # samples whose nearest pictures are looked for
ROW = 8  # images beside each other
EXTREMES = 8  # best and worst images that are shown
SHOWN = 32  # held-out pictures, of all domains, that translations are shown of
MOST_GROUPS = 12  # of labels
SIDE = 128  # pixels to which pictures of different sizes are brought, and small ones magnified, to be shown only
STYLE = (
    "body{font:16px sans-serif;margin:2em}p{max-width:60em}"
    ".rows{display:flex}.rows div{display:flex;flex-direction:column;justify-content:space-around;margin-right:1em}"
    "img{image-rendering:pixelated;min-width:0;max-width:100%;height:auto;align-self:flex-start}"
)


def write_page(
    folder: Path,
    pictures: Pictures,
    real: RealPictures,
    module: GenerativeModule | None,
    sets: Sequence[SetScores],
) -> Path:
    """Write sheets of pictures into a folder and an ``index.html`` that shows them; return its path.

    Args:
        folder: Where they go.
        pictures: What was scored.
        real: What it was compared with.
        module: What drew them, for samples by attribute.
        sets: What was scored image by image.
    """
    images = first(pictures, 64)
    parts = [sheet(folder, "samples", images, f"The first {len(images)} of {len(pictures)} that were scored.")]
    parts.append(neighbours(folder, pictures, real))
    if module is not None and module.conditional:
        parts += by_attribute(folder, module)
    for one in sets:
        parts += extremes(folder, one)
    against = f"{real.reference.name}{f' ({real.split})' if real.split else ''}"
    return written(folder, f"{pictures.name} against {against}", parts)


def write_translations(
    folder: Path, module: GenerativeModule, pictures: StorePictures, sets: Sequence[SetScores]
) -> Path:
    """Write a page of what a module makes of some held-out pictures, and of its best and worst images.

    Args:
        folder: Where it goes.
        module: Translates.
        pictures: Held-out pictures.
        sets: What was scored.
    """
    some = StorePictures(pictures.store, pictures.index[spread(len(pictures), SHOWN).numpy()], pictures.name)
    with torch.no_grad():
        shown = module.preview(some.batch(slice(0, len(some)), module.device))
    parts = []
    for name, images in shown.items():
        versions = to_bytes(images[:ROW]).cpu()
        below = versions.transpose(0, 1).flatten(0, 1) if versions.ndim == 5 else versions
        caption = f"What is made of pictures of {pictures.name}, each below its source."
        parts.append(sheet(folder, name, as_one(below), caption, row_names(module, len(below) // len(versions))))
    for one in sets:
        if not one.result.set.endswith(UNTRANSLATED):
            parts += extremes(folder, one)
    return written(folder, f"translations of {pictures.name}", parts)


def row_names(module: GenerativeModule, count: int) -> list[str]:
    """Say what the versions of a picture are, one below the other, that a module shows in its preview."""
    names = ["source", "result", "target" if isinstance(module, PairedTranslation) else "there and back"]
    if isinstance(module, AttributeTranslation):
        names = ["source", *module.shown]
    return [*names, *[""] * count][:count]


def written(folder: Path, title: str, parts: Sequence[str]) -> Path:
    """Write a page of parts and return its path."""
    page, title = folder / "index.html", html.escape(title)
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\n'
    page.write_text(head + "\n".join(parts) + "\n", encoding="utf-8")
    return page


def sheet(folder: Path, name: str, images: Tensor, caption: str, rows: Sequence[str] = ()) -> str:
    """Write one sheet and return what the page says of it; ``rows`` tell what its rows show."""
    columns = len(images) // len(rows) if rows else min(ROW, len(images))
    name = re.sub(r"[^\w-]+", "_", name)  # label names may be a stranger's
    save_sheet(images, columns, folder / f"{name}.png")
    width = (columns * (images.shape[3] + 2) + 2) * max(1, SIDE // images.shape[3])
    title = html.escape(name.replace("_", " "))
    labels = "".join(f"<span>{html.escape(row)}</span>" for row in rows)
    image = f'<img src="{html.escape(name)}.png" width="{width}" alt="{title}">'
    return f'<h2>{title}</h2><p>{html.escape(caption)}</p><div class="rows"><div>{labels}</div>{image}</div>'


def first(pictures: Pictures, count: int) -> Tensor:
    """Read the first pictures as bytes of one size, N 3 H W."""
    count = min(count, len(pictures))
    return as_one([image for i in range(0, count, 32) for image in pictures.read(slice(i, min(i + 32, count)))])


def as_one(images: Tensor | list[Tensor]) -> Tensor:
    """Bring pictures to one size that can be shown side by side."""
    small = len({image.shape for image in images}) == 1 and max(images[0].shape[1:]) <= 2 * SIDE
    return torch.cat([image[None].cpu().expand(-1, 3, -1, -1) if small else shown(image) for image in images])


def shown(image: Tensor, side: int = SIDE) -> Tensor:
    """Resize a picture of bytes, C H W, to a square, 1 3 side side."""
    resized = F.interpolate(image[None].cpu().expand(-1, 3, -1, -1).float(), (side, side), mode="area")
    return resized.round().to(torch.uint8)


def neighbours(folder: Path, pictures: Pictures, real: RealPictures) -> str:
    """Show what is nearest to a training picture, each above that picture."""
    train, pixels = real.train or real.reference, Pixels()
    features, count = Real(pixels, train, on_screen).features, min(SEARCHED, len(pictures))
    pieces = [slice(i, min(i + pictures.block, count)) for i in range(0, count, pictures.block)]
    found = [(pixels(images).features, [shown(image) for image in images]) for images in map(pictures.read, pieces)]
    samples = [image for _, images in found for image in images]
    distance, index = nearest(torch.cat([described for described, _ in found]), features)
    chosen = distance.argsort()[: min(2, count // ROW) * ROW].tolist()
    place = spread(len(train), len(features))[index.cpu()[chosen]].tolist()
    above = torch.cat([samples[i] for i in chosen])
    below = torch.cat([shown(train.read(slice(i, i + 1))[0]) for i in place])
    rows = list(zip(torch.split(above, ROW), torch.split(below, ROW), strict=True))
    return sheet(
        folder,
        "nearest_neighbours",
        torch.cat([row for pair in rows for row in pair]),
        f"Of the first {len(samples)} that were scored, the {len(chosen)} most like a picture of {train.name}, each "
        f"above it. Distances between pictures shrunk to a few pixels, 0 for copies: {distance[chosen[0]]:.3g} to "
        f"{distance[chosen[-1]]:.3g}; the mean of all {len(samples)} is {distance.mean():.3g}.",
        ["scored", "real"] * len(rows),
    )


def by_attribute(folder: Path, module: GenerativeModule) -> list[str]:
    """Show samples of the same seeds with each value of each group of labels, a row for each value."""
    parts, seeds, found = [], torch.arange(ROW), groups(module.label_names)
    drawn = module.draw_labels(seeds)
    for group, columns in list(found.items())[:MOST_GROUPS]:
        names = module.label_names[columns]
        values = {name: name.partition("=")[2] for name in names}
        if names == [group]:
            values = {f"{group}=0": "no", f"{group}=1": "yes"}
        rows = [to_bytes(module.sample(seeds, assign(drawn, value, module.label_names))).cpu() for value in values]
        caption = f"Asked for each {group}; in a column the seed and all other labels are the same."
        parts.append(sheet(folder, f"samples_by_{group}", as_one(torch.cat(rows)), caption, list(values.values())))
    if len(found) > MOST_GROUPS:
        parts.append(f"<p>Not shown: {html.escape(', '.join(list(found)[MOST_GROUPS:]))}.</p>")
    return parts


def extremes(folder: Path, scored: SetScores) -> list[str]:
    """Show the best and the worst images, each below what it should be."""
    if not scored.values:
        return []
    name = next((name for name in scored.values if name.startswith("lpips")), "psnr")
    order = (scored.values[name] * -direction(name)).argsort().tolist()
    parts = []
    for kind, chosen in (("best", order[:EXTREMES]), ("worst", order[::-1][:EXTREMES])):
        pairs = [scored.look(i) for i in chosen]
        rows = [torch.cat([shown(pair[side]) for pair in pairs]) for side in (1, 0)]
        numbers = ", ".join(f"{scored.values[name][i]:.3g}" for i in chosen)
        caption = f"By {name}, from the {kind}: {numbers}; {'more' if direction(name) > 0 else 'less'} is better."
        parts.append(sheet(folder, f"{kind}_{scored.result.set}", torch.cat(rows), caption, ["should be", "is"]))
    return parts
