"""Weights of networks that judge images: where they lie, and that they are what they should be.

They are looked for in ``<cache>/weights``, where the cache is ``~/.cache/lightning_avatars`` or what the environment
variable ``LIGHTNING_AVATARS_CACHE`` names. Nothing is fetched unless ``lightning-avatars weights --fetch`` asks for it.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_avatars.data.cache import cache_root, file_hash, writing

PATIENCE = 60  # seconds without an answer


@dataclass(frozen=True)
class Weights:
    """A published file.

    Args:
        name: What ``lightning-avatars weights --fetch`` calls it.
        file: Its name in the cache folder.
        sha256: Hash of the file.
        address: Where it was published; None where no single file can be fetched.
        purpose: What it is needed for.
    """

    name: str
    file: str
    sha256: str
    address: str | None
    purpose: str


INCEPTION = Weights(
    "inception",
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "fid, kid, is: the TF-2015 Inception network",
)
INCEPTION_FEATURES = Weights(
    "inception-features",
    "inception-2015-12-05-features.safetensors",
    "1187e428a82651e94409755c27b92440b550fcfcd0a628d7ad802b646edce2ed",
    None,
    "fid, kid: the same network without its last layer",
)
ALEXNET = Weights(
    "alexnet",
    "alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "lpips_alex",
)
ALEXNET_FEATURES = Weights(
    "alexnet-features",
    "alexnet-features.safetensors",
    "9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9",
    None,
    "lpips_alex: the convolutions alone",
)
VGG16 = Weights(
    "vgg16",
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "lpips_vgg",
)
VGG16_FEATURES = Weights(
    "vgg16-features",
    "vgg16-features-fp16.safetensors",
    "a0606ae48e5838fd6444b0c3105007fa554a81714ed9c937f2e1ca122c57b345",
    None,
    "lpips_vgg: the convolutions alone, in half precision",
)


ARCFACE = Weights(
    "arcface",
    "w600k_mbf.onnx",
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    None,
    "identity_arcface: InsightFace's buffalo_s, for research that is not commercial",
)


def weights_folder() -> Path:
    """Return the folder that weights are looked for in."""
    return cache_root() / "weights"


def locate(*known: Weights, path: Path | None = None) -> Path:
    """Locate one of several files that serve the same purpose, and check it.

    Args:
        known: The files, the best one first.
        path: Where one of them lies, in place of the cache folder.

    Raises:
        FileNotFoundError: None of them is there; the message says what to do.
        ValueError: The file is not as it was published.
    """
    places = [path.expanduser()] if path is not None else [weights_folder() / weights.file for weights in known]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        fetched = next((weights.name for weights in known if weights.address), None)
        otherwise = "" if path is None else "leave the path out and "
        hint = f", or {otherwise}run `lightning-avatars weights --fetch {fetched}`" if fetched else ""
        raise FileNotFoundError(
            f"no weights at {' or '.join(map(str, places))} (for {known[0].purpose}): put the file there{hint}"
        )
    if file_hash(found) not in {weights.sha256 for weights in known}:
        raise ValueError(
            f"{found} is not as it was published: its sha256 is {file_hash(found)}, expected "
            f"{' or '.join(weights.sha256 for weights in known)}. Remove it and fetch it again"
        )
    return found


def read(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file or a checkpoint of tensors alone; nothing else is unpickled."""
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and values of tensors, whatever file they came from; integers such as counters are left out.

    The values are hashed as float32, so that half precision and its float32 copy are the same content.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name, tensor in tensors.items() if tensor.is_floating_point()):
        tensor = tensors[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fetch(weights: Weights, report: Callable[[int, int], object] | None = None) -> Path:
    """Fetch a file from the address where it was published, check it and put it into the cache folder.

    Args:
        weights: What to fetch.
        report: Called with the bytes that have come and the bytes of the whole file, 0 where that isn't known.

    Raises:
        ValueError: It has no address, or what came is not what was published.
        OSError: The address can't be reached.
    """
    if weights.address is None:
        raise ValueError(f"{weights.name} has no address to fetch it from: put {weights.file} into {weights_folder()}")
    path = weights_folder() / weights.file
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        download(weights.address, temporary, report)
        if (found := file_hash(temporary)) != weights.sha256:
            raise ValueError(f"what {weights.address} sent has sha256 {found}, expected {weights.sha256}: not kept")
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"cannot fetch {weights.address}: {error}. Or put {weights.file} into {path.parent}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def download(address: str, path: Path, report: Callable[[int, int], object] | None) -> None:
    """Write what an address sends to a file."""
    with urllib.request.urlopen(address, timeout=PATIENCE) as source, path.open("wb") as file:
        total = int(source.headers.get("Content-Length") or 0)
        while block := source.read(2**20):
            file.write(block)
            if report is not None:
                report(file.tell(), total)
