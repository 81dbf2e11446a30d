"""The shipped recognisers: small, exact, and good enough to judge what they have never seen."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.mnist import MNIST, PARTS, fitted
from lightning_avatars.metrics.attributes import AttributeAccuracy
from lightning_avatars.metrics.extractors import WEIGHTS, Extractor, full_float32
from lightning_avatars.networks.recognizer import RecognitionNet, save_recognizer
from tests.conf.measuring import shared


@pytest.fixture(scope="module")
def avatarnet():
    return Extractor("avatarnet")


def drawn(resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Avatars of another seed than the recogniser was trained on."""
    pictures = list(Avatars(300, seed=1).pictures(resolution))
    images, labels = (np.stack([getattr(p, name) for p in pictures]) for name in ("image", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)


def accuracy(extractor: Extractor, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    metric = AttributeAccuracy(extractor.network.label_names)
    for some, wanted in zip(images.split(100), labels.split(100), strict=True):
        metric.update(extractor(some)[1], wanted)
    return {group: float(share) for group, share in metric.compute().items()}


@pytest.mark.parametrize(("resolution", "least"), [(64, 0.9), (32, 0.85)])
def test_avatarnet_names_the_attributes_of_avatars(avatarnet, resolution, least):
    assert avatarnet.network.label_names == Avatars().label_names
    images, labels = drawn(resolution)
    shares = accuracy(avatarnet, images, labels)
    assert np.mean(list(shares.values())) > least, shares
    assert np.mean(list(accuracy(avatarnet, images, labels.roll(1, 0)).values())) < 0.5  # of other avatars


def test_mnistnet_names_digits():
    extractor, dataset = Extractor("mnistnet"), MNIST(shared("data/mnist"))
    assert extractor.network.label_names == dataset.label_names and extractor.network.channels == 1
    pixels, digits = dataset.read(PARTS[1])
    images = torch.from_numpy(np.stack([fitted(image, 32)[None] for image in pixels[:400]]))
    labels = torch.eye(10)[torch.from_numpy(digits[:400].astype(np.int64))]
    assert accuracy(extractor, images, labels)["digit"] > 0.97


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_float32_under_autocast_and_equal_to_those_outside(avatarnet):
    images = bytes_of(4, 3, 64, 64)
    features, logits = avatarnet(images)
    with torch.autocast("cpu", torch.bfloat16):
        inside = avatarnet(images)
    assert features.shape == (4, avatarnet.network.heads.in_features) and logits.shape[1] == len(Avatars().label_names)
    for found, expected in zip(inside, (features, logits), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_images_are_left_as_they_were_and_carry_no_graph(avatarnet):
    images = bytes_of(2, 3, 64, 64)
    kept = images.clone()
    features, _ = avatarnet(images)
    assert torch.equal(images, kept) and not features.requires_grad
    assert not avatarnet.network.training and not any(p.requires_grad for p in avatarnet.parameters())


def test_an_image_is_described_the_same_in_any_block(avatarnet):
    images = bytes_of(6, 3, 32, 32)
    torch.testing.assert_close(avatarnet(images)[0][2:3], avatarnet(images[2:3])[0], rtol=1e-4, atol=1e-5)


def test_gray_images_are_seen_in_three_equal_channels(avatarnet):
    gray = bytes_of(3, 1, 64, 64)
    assert torch.equal(avatarnet(gray)[0], avatarnet(gray.expand(-1, 3, -1, -1))[0])


def test_colours_are_averaged_where_a_network_knows_only_gray():
    extractor, gray = Extractor("mnistnet"), bytes_of(3, 1, 32, 32)
    torch.testing.assert_close(extractor(gray.expand(-1, 3, -1, -1))[0], extractor(gray)[0], rtol=1e-4, atol=1e-5)
    red, blue = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0, 8:24], blue[:, 2, 8:24] = 255, 255
    torch.testing.assert_close(extractor(red)[0], extractor(blue)[0], rtol=1e-4, atol=1e-5)


def test_unknown_names_list_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"no extractor is called 'avatarnt'.*there are avatarnet$"):
        Extractor("avatarnt")
    with pytest.raises(FileNotFoundError, match=r"there are avatarnet, mnistnet$"):
        Extractor("zzz")


def test_a_file_of_ones_own_is_named_after_its_stem_and_hashed(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_recognizer(RecognitionNet(16, 3, ["Smiling"], width=4), path)
    extractor = Extractor(str(path))
    assert extractor.name == "mine" and extractor.network.label_names == ["Smiling"]
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a recogniser"):
        Extractor(str(path))


@pytest.fixture
def backends():
    """Torch's switches for TF32, put back at the end."""
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = [switch.allow_tf32 for switch in switches]
    yield switches
    for switch, value in zip(switches, kept, strict=True):
        switch.allow_tf32 = value


@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_tf32_is_off_inside_and_put_back_even_after_an_error(before, backends):
    cudnn, matmul = backends
    cudnn.allow_tf32, matmul.allow_tf32 = before
    with pytest.raises(KeyError), full_float32():
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
        raise KeyError
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before


def test_shipped_files_are_small():
    files = {path.stem: path.stat().st_size for path in WEIGHTS.glob("*.safetensors")}
    assert files.keys() == {"avatarnet", "mnistnet"} and max(files.values()) <= 3_000_000, files
