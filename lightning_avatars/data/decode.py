"""From the bytes of a picture file to pixels: one size, 8 bits, the right way up."""

from __future__ import annotations

import io
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lightning_avatars.data.sources import Source

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LOSSY = ("JPEG", "WEBP")
MOST_PIXELS = 2**26  # 8192 x 8192


class UnreadableError(ValueError):
    """A picture that cannot be used, and why."""


@dataclass(frozen=True)
class Decoded:
    """A picture prepared for the store, or the reason why there is none.

    Args:
        image: uint8, C H W.
        digest: Hash of the decoded pixels at their own size.
        size: Width and height before the preparation.
        error: Why it could not be read.
    """

    image: npt.NDArray[np.uint8] | None = None
    digest: bytes = b""
    size: tuple[int, int] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a square of bytes: cut and resized in one antialiased step (Lanczos).

    Args:
        resolution: Height and width of the result.
        channels: 1 for gray, 3 for colour.
        fit: ``crop`` takes the largest centred square, ``pad`` keeps everything and fills up with the background.
        background: Colour under transparent parts and around padded pictures.
        crop: Side of the square as a share of the width, for ``fit: crop``.
    """

    resolution: int
    channels: int = 3
    fit: Literal["crop", "pad"] = "crop"
    background: str = "white"
    crop: float = 1.0

    def fingerprint(self) -> dict[str, object]:
        """Return all choices but the resolution, and what is always so."""
        choices = {"channels": self.channels, "fit": self.fit, "background": self.background, "crop": self.crop}
        return {**choices, "filter": "lanczos", "version": 1}

    def decode(self, data: bytes) -> Decoded:
        """Decode and prepare the content of a picture file; raise where that cannot be done."""
        return self.prepare(self.opened(data))

    def opened(self, data: bytes) -> Image.Image:
        """Open the content of a picture file as an 8-bit picture of these channels, of its own size."""
        return self.eight_bit(upright(data))

    def prepare(self, image: Image.Image) -> Decoded:
        """Prepare an 8-bit picture of these channels."""
        digest = blake2b(b"%d %d %d " % (*image.size, self.channels) + image.tobytes(), digest_size=16).digest()
        pixels = np.asarray(self.square(image)).reshape(self.resolution, self.resolution, self.channels)
        return Decoded(np.ascontiguousarray(pixels.transpose(2, 0, 1)), digest, image.size)

    def eight_bit(self, image: Image.Image) -> Image.Image:
        """Flatten any mode to 8-bit gray or colour on the background."""
        if image.mode.startswith(("I", "F")):
            image = from_16_bit(image)
        if image.has_transparency_data:
            below = Image.new("RGBA", image.size, self.background)
            below.alpha_composite(image.convert("RGBA"))
            image = below
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        return image.convert("RGB" if self.channels == 3 else "L")

    def square(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.fit == "crop":
            side = max(1, min(round(self.crop * width), width, height))
            left, top = (width - side) // 2, (height - side) // 2
            return self.resize(image, (self.resolution, self.resolution), (left, top, left + side, top + side))
        scale = self.resolution / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        padded = Image.new("RGB", (self.resolution, self.resolution), self.background).convert(image.mode)
        corner = ((self.resolution - size[0]) // 2, (self.resolution - size[1]) // 2)
        padded.paste(self.resize(image, size, (0, 0, width, height)), corner)
        return padded

    def resize(self, image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
        return image.resize(size, Image.Resampling.LANCZOS, box)


def upright(data: bytes) -> Image.Image:
    """Open the first frame of a picture, turned as its EXIF tag says."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise UnreadableError(f"{image.width} x {image.height} pixels are more than the {MOST_PIXELS:,} that are read")
    image.load()
    return ImageOps.exif_transpose(image)


def from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits; other wide formats have no known range."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise UnreadableError(
            f"a picture of 32-bit numbers (mode {image.mode}) has no known range; save it with 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


@dataclass(frozen=True)
class HalfPreparation(Preparation):
    """How one half of a picture of double width becomes a square of bytes.

    Args:
        half: Which half is taken.
    """

    half: Literal["left", "right"] = "left"

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "half": self.half}

    def eight_bit(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if width % 2:
            raise UnreadableError(f"{width} x {height} pixels are not two pictures side by side: the width is odd")
        if width <= height:
            raise UnreadableError(f"{width} x {height} pixels are not two pictures side by side: not wider than high")
        left = 0 if self.half == "left" else width // 2
        return super().eight_bit(image.crop((left, 0, left + width // 2, height)))


@dataclass(frozen=True)
class MapPreparation(Preparation):
    """How a label map becomes a square of class numbers: nothing is interpolated, the nearest pixel is taken.

    Padding is class 0.
    """

    channels: int = 1
    background: str = "black"

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "filter": "nearest"}

    def opened(self, data: bytes) -> Image.Image:
        kind = Image.open(io.BytesIO(data), formats=FORMATS).format
        if kind in LOSSY:
            raise UnreadableError(f"a label map must not be a {kind}, which changes numbers; make it a PNG")
        return super().opened(data)

    def eight_bit(self, image: Image.Image) -> Image.Image:
        """Take the numbers of a map, of a palette's picture its places; raise where the pixels are no numbers."""
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise UnreadableError(
                f"a label map has one channel of class numbers, this picture is {image.mode}; turn its colours into "
                "numbers first"
            )
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 255:
            raise UnreadableError(f"class numbers are 0 to 255, this map has {numbers.min()} to {numbers.max()}")
        return Image.fromarray(numbers.astype(np.uint8))

    def resize(self, image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
        return image.resize(size, Image.Resampling.NEAREST, box)


@dataclass(frozen=True)
class Decoder:
    """Read and prepare some pictures of a source; work for another process."""

    source: Source
    preparation: Preparation

    def __call__(self, names: list[str]) -> list[Decoded]:
        return [self.one(name) for name in names]

    def one(self, name: str) -> Decoded:
        try:
            return self.preparation.decode(self.source.read(name))
        except Exception as error:  # decoders raise all there is for broken files, and one file must not end the run
            return Decoded(error=reason(error))


@dataclass(frozen=True)
class PairDecoder:
    """Read and prepare the pictures of some pairs; work for another process.

    Args:
        parts: What each picture of a pair is -> how it is read.
    """

    parts: dict[str, Decoder]

    def __call__(self, pairs: list[dict[str, str]]) -> list[dict[str, Decoded]]:
        return [{part: self.parts[part].one(name) for part, name in names.items()} for names in pairs]


def reason(error: Exception) -> str:
    """Say why a picture cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a known format ({', '.join(FORMATS)})"
    return str(error) or type(error).__name__
