"""The shipped recognisers: small, exact, and good enough to judge what they have never seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.mnist import MNIST, PARTS, fitted
from lightning_avatars.labels import groups
from lightning_avatars.metrics.attributes import AttributeAccuracy
from lightning_avatars.metrics.extractors.base import Extractor
from lightning_avatars.metrics.extractors.recognizer import SHIPPED, Recognizer
from lightning_avatars.metrics.weights import content_hash, read
from lightning_avatars.networks.recognizer import RecognitionNet, save_recognizer
from tests.conf.measuring import shared


@pytest.fixture(scope="module")
def avatarnet():
    return Recognizer("avatarnet")


def drawn(resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Avatars of another seed than the recogniser was trained on."""
    pictures = list(Avatars(300, seed=1).pictures(resolution))
    images, labels = (np.stack([getattr(p, name) for p in pictures]) for name in ("image", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)


def accuracy(extractor: Extractor, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    metric = AttributeAccuracy(extractor.label_names)
    for some, wanted in zip(images.split(100), labels.split(100), strict=True):
        metric.update(extractor(some)[1], wanted)
    return {group: float(share) for group, share in metric.compute().items()}


@pytest.mark.parametrize(("resolution", "least"), [(64, 0.9), (32, 0.85)])
def test_avatarnet_names_the_attributes_of_avatars(avatarnet, resolution, least):
    assert avatarnet.label_names == Avatars().label_names
    images, labels = drawn(resolution)
    shares = accuracy(avatarnet, images, labels)
    assert np.mean(list(shares.values())) > least, shares
    assert np.mean(list(accuracy(avatarnet, images, labels.roll(1, 0)).values())) < 0.5  # of other avatars


def test_mnistnet_names_digits():
    extractor, dataset = Recognizer("mnistnet"), MNIST(shared("data/mnist"))
    assert extractor.label_names == dataset.label_names and extractor.network.channels == 1
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
    extractor, gray = Recognizer("mnistnet"), bytes_of(3, 1, 32, 32)
    torch.testing.assert_close(extractor(gray.expand(-1, 3, -1, -1))[0], extractor(gray)[0], rtol=1e-4, atol=1e-5)
    red, blue = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0, 8:24], blue[:, 2, 8:24] = 255, 255
    torch.testing.assert_close(extractor(red)[0], extractor(blue)[0], rtol=1e-4, atol=1e-5)


def test_unknown_names_list_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"no recogniser is called 'avatarnt'.*there are avatarnet$"):
        Recognizer("avatarnt")
    with pytest.raises(FileNotFoundError, match=r"there are avatarnet, mnistnet$"):
        Recognizer("zzz")


def test_a_file_of_ones_own_is_named_after_its_stem_and_hashed(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_recognizer(RecognitionNet(16, 3, ["Smiling"], width=4), path)
    extractor = Recognizer(str(path))
    assert extractor.name == "mine" and extractor.label_names == ["Smiling"]
    assert (extractor.dim, extractor.classes) == (32, 1)
    assert extractor.sha256 == content_hash(read(path)) != Recognizer("avatarnet").sha256
    network = RecognitionNet(16, 3, ["Smiling"], width=4)
    save_recognizer(network, tmp_path / "other.safetensors")
    assert Recognizer(str(tmp_path / "other.safetensors")).sha256 != extractor.sha256
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a recogniser"):
        Recognizer(str(path))


def test_probabilities_are_those_of_each_group_of_labels(avatarnet):
    logits = avatarnet(bytes_of(5, 3, 32, 32)).logits
    found = avatarnet.class_probabilities(logits)
    columns = groups(avatarnet.label_names)
    assert [p.shape[1] for p in found] == [max(c.stop - c.start, 2) for c in columns.values()]
    for p, column in zip(found, columns.values(), strict=True):
        assert p.dtype == torch.float64
        torch.testing.assert_close(p.sum(1), torch.ones(5, dtype=torch.float64))
        torch.testing.assert_close(p, logits[:, column].double().softmax(1))


def test_a_label_of_its_own_has_two_classes(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_recognizer(RecognitionNet(16, 3, ["Smiling", "hair=long", "hair=short"], width=4), path)
    extractor = Recognizer(str(path))
    smiling, hair = extractor.class_probabilities(torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 3.0]]))
    sure = torch.tensor([0.0, 2.0], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(smiling, torch.stack([sure, 1 - sure], 1))
    torch.testing.assert_close(hair, torch.tensor([[1.0, 1.0], [0.0, 3.0]], dtype=torch.float64).softmax(1))


def test_what_it_says_of_itself_is_what_it_does(avatarnet):
    side = avatarnet.network.resolution
    assert avatarnet.resize == f"bilinear, antialiased, to {side} x {side}" and avatarnet.precision == "float32"
    assert avatarnet.prepare(bytes_of(2, 3, 20, 30)).shape == (2, 3, side, side)
    assert (avatarnet.score("fd"), avatarnet.score("class_score")) == ("fd_avatarnet", "class_score_avatarnet")
    assert avatarnet.classes == len(avatarnet.label_names) and avatarnet.without_classes == ""


def test_shipped_files_are_small():
    files = {path.stem: path.stat().st_size for path in SHIPPED.glob("*.safetensors")}
    assert files.keys() == {"avatarnet", "mnistnet"} and max(files.values()) <= 3_000_000, files
