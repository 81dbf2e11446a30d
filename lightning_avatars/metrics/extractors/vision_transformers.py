"""DINOv2 and CLIP as extractors, through timm: ``pip install 'lightning-avatars[vision]'``.

Their weights are no part of this project, and its tests run on random ones: the networks are timm's, the sizes, the
position embeddings and the pixels are compared with what the papers' code does, published scores are not reproduced.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.kernels import Gaussian, Kernel
from lightning_avatars.metrics.weights import Weights, content_hash, locate, read, weights_folder

if TYPE_CHECKING:
    from timm.models import VisionTransformer as Network

# Neither publisher names a hash. Each of these stands in the code of projects that have nothing to do with each other.
DINOV2 = Weights(
    "dinov2",
    "dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "fd_dinov2: DINOv2 ViT-L/14",
)
CLIP_L_336 = Weights(
    "clip",
    "vit_large_patch14_clip_336.openai.safetensors",
    "fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
    "https://huggingface.co/timm/vit_large_patch14_clip_336.openai/resolve/"
    "81e38efc4637de5023b10e75a7f9bd1c6fa6b010/open_clip_model.safetensors",
    "cmmd: CLIP ViT-L/14 at 336 pixels",
)


class VisionTransformer(Extractor):
    """What DINOv2 and CLIP share.

    Args:
        name: In the names of scores, where the network is the one that the paper's score is defined by.
        published: Weights of that network.
        default: timm's name of that network.
        family: Pattern of timm's names of the networks that may be chosen.
        network: timm's name of the network.
        weights: File of its weights; None looks into the cache folder.
        resolution: Side of the square that images are brought to; None is what the network was trained at.

    Raises:
        ModuleNotFoundError: timm is not installed.
        FileNotFoundError: There are no weights; the message says where to put which.
        ValueError: The network is not one of the family, or the file holds other weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        published: Weights,
        default: str,
        family: str,
        network: str,
        weights: Path | None,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{type(self).__name__} needs timm: run `pip install 'lightning-avatars[vision]'`"
            ) from error
        known = timm.list_pretrained(family)
        config = timm.get_pretrained_cfg(network) if network in known else None
        if config is None:
            raise ValueError(f"{type(self).__name__} has no network {network!r}: choose one of {', '.join(known)}")
        native: int = config.input_size[-1]
        self.name = name if network == default else network.partition(".")[0]
        self.resolution = resolution or native
        self.resize = f"bicubic, antialiased, to {self.resolution} x {self.resolution}, clamped, not rounded"

        pinned = network == default and weights is None
        tensors = loaded(network, native, locate(published) if pinned else found(network, weights))
        self.sha256 = content_hash(tensors)
        self.network = empty(network, self.resolution)
        tensors["pos_embed"] = positions(tensors["pos_embed"], self.network.patch_embed.num_patches)
        self.network.load_state_dict(tensors, assign=True)
        self.network.eval().requires_grad_(False)
        self.dim = config.num_classes or self.network.num_features
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        side = (self.resolution, self.resolution)
        x = F.interpolate(images.float(), side, mode="bicubic", antialias=True).clamp(0, 255)
        return (x / 255 - self.mean) / self.std

    def describe(self, prepared: Tensor) -> Description:
        return Description(self.network(prepared))


class DINOv2(VisionTransformer):
    """Describe images by DINOv2's class token: FD-DINOv2 of Stein et al. 2023.

    As their code does with ``--clean_resize``, images go to 224 x 224 (bicubic, antialiased) without their shape being
    kept, and position embeddings go from 37 x 37 to 16 x 16 as in Meta's code, which is not how timm does it. Without
    that switch their code, like any that resizes pictures of PIL, rounds to bytes after each of the two directions:
    pixels of photographs then differ by 0.3 of 255 on average.

    Args:
        network: timm's name of it; with any but the large one scores are called after it, as ``fd_dinov2`` is defined
            by the large one.
        weights: File of its weights, Meta's or timm's. By default the large network's are Meta's
            ``dinov2_vitl14_pretrain.pth`` in the cache folder, checked by sha256, and another's are
            ``<network>.safetensors`` there, unchecked; the passport has the hash of what was loaded.
    """

    def __init__(self, network: str = "vit_large_patch14_dinov2.lvd142m", weights: Path | None = None) -> None:
        default, family = "vit_large_patch14_dinov2.lvd142m", "vit_*_patch14_dinov2.lvd142m"
        super().__init__("dinov2", DINOV2, default, family, network, weights, resolution=224)


class CLIP(VisionTransformer):
    """Describe images by CLIP's normalised embedding: CMMD of Jayasumana et al. 2024.

    OpenAI's networks have QuickGELU, which timm builds only under the names with ``quickgelu``. Images go to the
    network's square (bicubic, antialiased) without their shape being kept; the paper's code cuts out the middle square
    first, which is the same for square images, and rounds to bytes after each direction of the resize.

    Args:
        network: timm's name of it; with any but the default scores are called after it, as ``cmmd`` is defined by
            ViT-L/14 at 336 pixels.
        weights: File of its weights, timm's or OpenCLIP's. By default they are ``<network>.safetensors``, without the
            ``_quickgelu``, in the cache folder; the default network's, OpenCLIP's file, are checked by sha256. The
            passport has the hash of what was loaded.
    """

    def __init__(
        self, network: str = "vit_large_patch14_clip_quickgelu_336.openai", weights: Path | None = None
    ) -> None:
        default, family = "vit_large_patch14_clip_quickgelu_336.openai", "vit_*_clip_quickgelu_*.openai"
        super().__init__("clip", CLIP_L_336, default, family, network, weights)

    @property
    def kernel(self) -> Kernel:
        return Gaussian(sigma=10.0, scale=1000.0)

    def score(self, kind: str) -> str:
        return "cmmd" if (kind, self.name) == ("kd", "clip") else super().score(kind)

    def describe(self, prepared: Tensor) -> Description:
        return Description(F.normalize(self.network(prepared), dim=1))


def empty(network: str, resolution: int) -> Network:
    """Build a network that has no memory for weights yet."""
    import timm

    with torch.device("meta"):
        return cast("Network", timm.create_model(network, img_size=resolution))


def found(network: str, weights: Path | None) -> Path:
    """Find a file that no hash is known of."""
    published = network.replace("_quickgelu", "")
    path = weights or weights_folder() / f"{published}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights of {network} at {path}: put the file model.safetensors of the model timm/{published} on the "
            "Hugging Face hub there, under this name"
        )
    return path


def loaded(network: str, native: int, path: Path) -> dict[str, Tensor]:
    """Read the tensors of a network at the resolution it was trained at, by timm's names; timm knows many layouts."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    template = empty(network, native)
    tensors: dict[str, Tensor] = checkpoint_filter_fn(read(path), template)
    shapes = {name: tensor.shape for name, tensor in template.state_dict().items()}
    if wrong := sorted(dict(shapes.items() ^ {name: tensor.shape for name, tensor in tensors.items()}.items())):
        raise ValueError(
            f"{path} does not hold the weights of {network}: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, among them {wrong[0]}"
        )
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def positions(embedding: Tensor, patches: int) -> Tensor:
    """Resize position embeddings, 1 x (1 + patches) x D, as Meta's DINOv2 does.

    That is bicubic, not antialiased, and with 0.1 added to the new side where the scale is computed, which shifts the
    samples slightly; timm's loader would antialias and would not shift.
    """
    old, new = isqrt(embedding.shape[1] - 1), isqrt(patches)
    if old == new:
        return embedding
    scale = (new + 0.1) / old
    token, grid = embedding[:, :1], embedding[:, 1:]
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.flatten(2).mT], 1)
