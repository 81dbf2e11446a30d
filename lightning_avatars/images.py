"""The one way from float images to bytes and back, and sheets of pictures."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from pathlib import Path
from typing import IO

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torchvision.utils import make_grid

SHEET = "sheet.png"  # what tools write beside the pictures of a folder
MARK = "Software", "lightning-avatars sheet"  # by which a PNG says that it is a sheet


def to_float(image: Tensor) -> Tensor:
    """Bytes 0 … 255 to floats in [-1, 1]."""
    return image.div(127.5).sub_(1)


def to_bytes(image: Tensor) -> Tensor:
    """Floats in [-1, 1] to bytes 0 … 255, rounded and clamped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def coloured(maps: Tensor, classes: int) -> Tensor:
    """Give each class of label maps, N 1 H W, a colour of its own, N 3 H W bytes; class 0 is black.

    Hues go round by the golden ratio, so that few classes differ much; every second class is pale.
    """
    colours = [hsv_to_rgb(i * 0.618 % 1, 0.9 if i % 2 else 0.5, float(i > 0)) for i in range(classes)]
    table = to_bytes(torch.tensor(colours, device=maps.device) * 2 - 1)
    return table[maps[:, 0].long()].permute(0, 3, 1, 2)


def to_picture(image: Tensor) -> Image.Image:
    """Make a picture of one image of bytes, C H W with 1 or 3 channels."""
    array = image.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def sheet(images: Tensor, columns: int) -> Tensor:
    """Lay images of bytes, N C H W, out in rows of ``columns`` with thin white lines between them."""
    grid: Tensor = make_grid(images.cpu(), nrow=columns, padding=2, pad_value=255)
    return grid


def save_sheet(images: Tensor, columns: int, path: Path) -> None:
    """Write a sheet of images of bytes as a PNG that says what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = PngImagePlugin.PngInfo()
    said.add_text(*MARK)
    to_picture(sheet(images, columns)).save(path, pnginfo=said)


def sheet_of(output: Path) -> Path:
    """Tell where the sheet of pictures belongs that go to a folder, or to a zip file."""
    return output.with_suffix(".png") if output.suffix == ".zip" else output / SHEET


def is_sheet(file: IO[bytes]) -> bool:
    """Tell whether a PNG is a sheet that ``save_sheet`` wrote, by what stands before its pixels."""
    return "\0".join(MARK).encode() in file.read(128)
