"""Each tool's way from images to features, on the same weights."""

from __future__ import annotations

import types
from functools import partial
from pathlib import Path

import cleanfid.fid
import cleanfid.inception_pytorch
import pytorch_fid.fid_score
import pytorch_fid.inception
import scipy
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from experiments.conformance.pictures import CHUNK, Describe
from lightning_avatars.images import to_picture
from lightning_avatars.metrics.extractors.inception import Inception


def tools(weights: Path, temporary: Path) -> dict[str, Describe]:
    """Build each tool's way from bytes to features, on the same weights.

    Networks are laid out channels last, which is faster here and changes features by 1e-6 at most.
    """
    tensors = load_file(weights)
    tensors |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}  # neither FID nor KID reads them
    path = temporary / "inception.pth"
    torch.save(tensors, path)
    for module in (pytorch_fid.inception, cleanfid.inception_pytorch):  # they fetch the file they were written for
        module.load_state_dict_from_url = lambda *_, **__: tensors
    for module in (pytorch_fid.fid_score, cleanfid.fid):  # scipy 1.18 drops the argument `disp`, which they give
        module.linalg = types.SimpleNamespace(sqrtm=lambda a, disp=True: (scipy.linalg.sqrtm(a), None))
    ours = Inception(weights)
    fidelity = fast(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)))
    smooth, plain = (
        fast(FrechetInceptionDistance(feature_extractor_weights_path=str(path), antialias=antialias).inception)
        for antialias in (True, False)
    )
    seitzer = fast(pytorch_fid.inception.InceptionV3([3]))
    copy = fast(cleanfid.inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False))

    def clean(network: nn.Module, mode: str, images: Tensor) -> Tensor:
        files = [str(file) for file in written(images, temporary)]
        found = cleanfid.fid.get_files_features(
            files, network, num_workers=0, batch_size=CHUNK, device=torch.device("cpu"), mode=mode, verbose=False
        )
        return torch.from_numpy(found)

    def files(images: Tensor) -> Tensor:
        found = pytorch_fid.fid_score.get_activations(written(images, temporary), seitzer, CHUNK, num_workers=0)
        return torch.from_numpy(found)

    return {
        "ours": lambda images: ours(images).features,
        "torch-fidelity": lambda images: fidelity(images)[0],
        "torchmetrics": smooth,
        "pytorch-fid": files,
        "clean-fid": partial(clean, lambda x: ours.network((x - 128) / 128), "clean"),
        "torchmetrics, antialias=False": plain,
        "clean-fid, legacy_pytorch": partial(clean, lambda x: copy(x / 255)[0].flatten(1), "legacy_pytorch"),
    }


def fast(network: nn.Module) -> nn.Module:
    """Freeze a network and lay it out channels last."""
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def written(images: Tensor, folder: Path) -> list[Path]:
    """Write images as PNG files, for the tools that read nothing else."""
    paths = [folder / f"{number:05d}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        to_picture(image).save(path, compress_level=1)
    return paths
