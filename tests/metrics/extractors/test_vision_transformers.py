"""DINOv2 and CLIP on seeded random weights: the published ones are too large to be at hand.

So these tests show that the networks are built, fed and read as the papers do, not that published scores come out.
"""

from __future__ import annotations

import hashlib
import socket
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers.activations import QuickGELU
from torch.nn import functional as F

from lightning_avatars.metrics.extractors import vision_transformers
from lightning_avatars.metrics.extractors.vision_transformers import CLIP, DINOv2, VisionTransformer, empty, positions
from lightning_avatars.metrics.weights import content_hash, weights_folder

SMALL_DINO = "vit_small_patch14_dinov2.lvd142m"
TINY_CLIP = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"


def random_weights(network: str, side: int) -> dict[str, torch.Tensor]:
    """Weights of a network at the resolution it was trained at, in half precision as files may be."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in empty(network, side).state_dict().items()}
    return {name: torch.randn(shape, generator=generator).mul(0.05).half() for name, shape in shapes.items()}


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dino_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / f"{SMALL_DINO}.safetensors"
    save_file(random_weights(SMALL_DINO, 518), path)
    return path


@pytest.fixture(scope="module")
def dino(dino_file):
    return DINOv2(SMALL_DINO, dino_file)


class TinyCLIP(CLIP):
    """CLIP's code around a network of 8 million parameters; OpenAI's own begin at 86."""

    def __init__(self, weights):
        VisionTransformer.__init__(
            self, "clip", vision_transformers.CLIP_L_336, TINY_CLIP, TINY_CLIP, TINY_CLIP, weights
        )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file(random_weights(TINY_CLIP, 224), path)
    return TinyCLIP(path)


def test_dinov2_describes_images_by_the_class_token_after_the_final_norm(dino):
    images = pictures(2, 3, 50, 70)
    features, logits = dino(images)
    assert features.shape == (2, 384) and dino.dim == 384 and features.dtype == torch.float32 and logits is None
    tokens = dino.network.forward_features(dino.prepare(images))
    assert tokens.shape == (2, 1 + 16 * 16, 384)
    assert torch.allclose(features, tokens[:, 0], atol=1e-6)
    # After the norm: without its scale and shift, mean and variance are those of a normalised vector.
    norm = dino.network.norm
    plain = (features - norm.bias) / norm.weight
    assert torch.allclose(plain.mean(1), torch.zeros(2), atol=1e-3)
    assert torch.allclose(plain.var(1, correction=0), torch.ones(2), atol=1e-3)


def test_clip_describes_images_by_the_normalised_projection(clip):
    images = pictures(2, 3, 50, 70)
    features, logits = clip(images)
    assert features.shape == (2, 512) and clip.dim == 512 and features.dtype == torch.float32 and logits is None
    assert torch.allclose(features.norm(dim=1), torch.ones(2), atol=1e-6)
    token = clip.network.forward_features(clip.prepare(images))[:, 0]
    projected = token @ clip.network.head.weight.T + clip.network.head.bias
    assert torch.allclose(features, F.normalize(projected, dim=1), atol=1e-6)


@pytest.mark.parametrize("extractor", ["dino", "clip"])
def test_features_are_frozen_repeatable_and_float32_under_autocast(extractor, request):
    extractor = request.getfixturevalue(extractor)
    images = pictures(2, 3, 40, 40)
    features = extractor(images).features
    assert not any(parameter.requires_grad for parameter in extractor.parameters()) and not extractor.network.training
    with torch.autocast("cpu", torch.bfloat16):
        again = extractor(images).features
    assert again.dtype == torch.float32 and torch.equal(features, again)
    assert torch.allclose(extractor(images[1:]).features, features[1:], atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-4  # different images, different features


@pytest.mark.parametrize("extractor", ["dino", "clip"])
def test_grey_images_are_described_as_their_colour_copies(extractor, request):
    extractor, grey = request.getfixturevalue(extractor), pictures(1, 1, 32, 32)
    assert torch.equal(extractor(grey).features, extractor(grey.repeat(1, 3, 1, 1)).features)


@pytest.mark.parametrize("shape", [(109, 89), (300, 257), (224, 224)])
def test_images_of_any_shape_are_resized_to_the_square_as_pil_does_floats(shape, dino):
    picture = pictures(1, 3, *shape)
    # PIL's floating point pictures are what dgm-eval --clean_resize uses: both directions in float, then clamped.
    channels = [Image.fromarray(channel.float().numpy()) for channel in picture[0]]
    resized = [np.asarray(channel.resize((224, 224), Image.Resampling.BICUBIC)).clip(0, 255) for channel in channels]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.stack(resized) / 255 - mean[:, None, None]) / std[:, None, None]
    assert np.abs(dino.prepare(picture)[0].numpy() - expected).max() < 1e-4


def test_clip_has_its_own_colours_and_size(clip):
    white = clip.prepare(torch.full((1, 3, 10, 20), 255, dtype=torch.uint8))
    assert white.shape == (1, 3, 224, 224)  # the tiny network's
    expected = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    assert torch.allclose(white.mean((0, 2, 3)), torch.tensor(expected), atol=1e-5)


def test_the_default_networks_are_the_papers():
    dino = empty("vit_large_patch14_dinov2.lvd142m", 224)
    assert (
        dino.num_features == 1024 and dino.num_classes == 0 and len(dino.blocks) == 24 and dino.global_pool == "token"
    )
    assert (
        dino.patch_embed.grid_size == (16, 16) and isinstance(dino.norm, torch.nn.LayerNorm) and dino.norm.eps == 1e-6
    )
    clip = empty("vit_large_patch14_clip_quickgelu_336.openai", 336)
    assert clip.head.weight.shape == (768, 1024) and clip.patch_embed.grid_size == (24, 24) and len(clip.blocks) == 24
    assert isinstance(clip.blocks[0].mlp.act, QuickGELU) and clip.norm.eps == 1e-5
    assert {parameter.device.type for parameter in [*dino.parameters(), *clip.parameters()]} == {"meta"}


def slow_positions(grid: np.ndarray, new: int) -> np.ndarray:
    """Cubic convolution, a = -0.75, at (i + 0.5) * old / (new + 0.1) - 0.5, edges repeated."""
    old, a = len(grid), -0.75
    matrix = np.zeros((new, old))
    for row in range(new):
        at = (row + 0.5) * old / (new + 0.1) - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            t = abs(at - tap)
            near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[row, min(max(tap, 0), old - 1)] += near if t <= 1 else far
    return np.einsum("ip,jq,pqd->ijd", matrix, matrix, grid)


def test_position_embeddings_are_resized_as_dinov2_does_and_not_as_timm_would():
    embedding = torch.randn(1, 1 + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    resized = positions(embedding, 16 * 16)
    assert torch.equal(resized[:, 0], embedding[:, 0])
    grid = embedding[0, 1:].double().reshape(37, 37, 5).numpy()
    assert np.abs(resized[0, 1:].reshape(16, 16, 5).numpy() - slow_positions(grid, 16)).max() < 1e-4
    assert positions(embedding, 37 * 37) is embedding
    timms = timm.layers.resample_abs_pos_embed(embedding, [16, 16], [37, 37])
    assert (resized - timms).abs().mean() > 0.1


def test_the_network_has_the_weights_of_the_file(dino, dino_file):
    saved, held = random_weights(SMALL_DINO, 518), dino.network.state_dict()
    assert saved.keys() == held.keys() and held["blocks.11.attn.qkv.weight"].dtype == torch.float32
    changed = [name for name in saved if not torch.equal(saved[name].float(), held[name].float())]
    assert changed == ["pos_embed"] and held["pos_embed"].shape == (1, 257, 384)
    again = DINOv2(SMALL_DINO, dino_file)
    assert dino.sha256 == content_hash(saved) == again.sha256
    images = pictures(1, 3, 20, 30)
    assert torch.equal(again(images).features, dino(images).features)


def test_metas_file_and_timms_give_the_same_hash_and_network(dino, tmp_path):
    tensors = {name: tensor.float() for name, tensor in random_weights(SMALL_DINO, 518).items()}
    torch.save({**tensors, "mask_token": torch.zeros(1, 384)}, tmp_path / "meta.pth")
    meta, held = DINOv2(SMALL_DINO, tmp_path / "meta.pth"), dino.network.state_dict()
    assert meta.sha256 == dino.sha256
    assert all(torch.equal(tensor, held[name]) for name, tensor in meta.network.state_dict().items())


def test_open_clips_file_gives_the_same_hash_and_features(clip, tmp_path):
    tensors = random_weights(TINY_CLIP, 224)
    tensors["head.bias"].zero_()  # OpenAI's projection has none
    save_file(tensors, tmp_path / "timm.safetensors")
    names = {
        "cls_token": "class_embedding", "pos_embed": "positional_embedding", "patch_embed.proj.weight": "conv1.weight",
        "head.weight": "proj",
    }  # fmt: skip
    theirs = {}
    for name, tensor in tensors.items():
        renamed = names.get(name, name).replace("norm_pre", "ln_pre").replace("blocks.", "transformer.resblocks.")
        renamed = renamed.replace("qkv.", "in_proj_").replace("attn.proj", "attn.out_proj").replace(".norm", ".ln_")
        renamed = renamed.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        theirs["visual." + (renamed.replace("norm.", "ln_post."))] = tensor
    theirs["visual.class_embedding"] = tensors["cls_token"][0, 0]
    theirs["visual.positional_embedding"] = tensors["pos_embed"][0]
    theirs["visual.proj"] = tensors["head.weight"].T.contiguous()
    del theirs["visual.head.bias"]
    theirs |= {"logit_scale": torch.zeros(()), "token_embedding.weight": torch.zeros(4, 8)}  # the text's half
    save_file({name: tensor.clone() for name, tensor in theirs.items()}, tmp_path / "open_clip.safetensors")
    ours, other = TinyCLIP(tmp_path / "timm.safetensors"), TinyCLIP(tmp_path / "open_clip.safetensors")
    images = pictures(1, 3, 64, 64)
    assert ours.sha256 == other.sha256 != clip.sha256
    assert torch.equal(ours(images).features, other(images).features)


def test_scores_have_the_papers_names_for_the_papers_networks_alone(dino, clip):
    assert dino.score("fd") == "fd_vit_small_patch14_dinov2" and clip.score("fd") == "fd_clip"
    assert clip.score("kd") == "cmmd"
    clip_like = TinyCLIP.__new__(TinyCLIP)
    torch.nn.Module.__init__(clip_like)
    clip_like.name = "vit_base_patch32_clip_quickgelu_224"
    assert clip_like.score("kd") == "kd_vit_base_patch32_clip_quickgelu_224"


def test_cmmds_kernel_is_the_papers(clip):
    # Opposite unit vectors: |x - y|^2 = 4, so 1000 exp(-4 / 200).
    one = torch.ones(1, dtype=torch.float64)
    assert clip.kernel(-one[:, None], one, one, 768).item() == pytest.approx(1000 * np.exp(-0.02), rel=1e-12)


def test_weights_in_the_cache_folder_are_found(dino, dino_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{SMALL_DINO}.safetensors: put .* timm/{SMALL_DINO} .*hub"):
        DINOv2(SMALL_DINO)
    weights_folder().mkdir()
    (weights_folder() / dino_file.name).symlink_to(dino_file)
    assert DINOv2(SMALL_DINO).sha256 == dino.sha256


@pytest.mark.parametrize(
    ("extractor", "file", "fetched"),
    [(DINOv2, "dinov2_vitl14_pretrain.pth", "dinov2"), (CLIP, "vit_large_patch14_clip_336.openai.safetensors", "clip")],
)
def test_default_weights_are_checked_against_the_published_hash(extractor, file, fetched, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{file}.*--fetch {fetched}`"):
        extractor()
    weights_folder().mkdir()
    (weights_folder() / file).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"not as it was published.*{hashlib.sha256(b'something else').hexdigest()}"):
        extractor()


def test_other_weights_and_other_networks_are_refused(dino_file, tmp_path):
    with pytest.raises(ValueError, match="does not hold the weights of vit_base_patch14_dinov2"):
        DINOv2("vit_base_patch14_dinov2.lvd142m", dino_file)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="175 tensors are missing"):
        DINOv2(SMALL_DINO, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"no network 'resnet50': choose one of .*{SMALL_DINO}"):
        DINOv2("resnet50")
    with pytest.raises(ValueError, match=r"choose one of .*quickgelu_336\.openai"):
        CLIP("vit_large_patch14_clip_336.openai")  # timm's usual GELU, with which the features are others


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"DINOv2 needs timm: .*lightning-avatars\[vision\]"):
        DINOv2()


def test_nothing_is_fetched(dino_file, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    DINOv2(SMALL_DINO, dino_file)
    for extractor in (DINOv2, CLIP):
        with pytest.raises(FileNotFoundError):
            extractor()
        with pytest.raises(ValueError, match="no network"):
            extractor("hf-hub:timm/vit_small_patch14_dinov2.lvd142m")
    assert vision_transformers.DINOV2.address.startswith("https://")
