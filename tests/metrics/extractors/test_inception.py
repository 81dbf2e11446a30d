"""Our Inception against torch-fidelity's, on the published weights, and its resize on any size."""

import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from lightning_avatars.metrics.extractors import inception as module
from lightning_avatars.metrics.extractors.inception import Inception, tensorflow_resize
from tests.conf.measuring import shared

SIZES = [(32, 32), (89, 109), (299, 299), (300, 300)]


def noise(height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def weights():
    return shared("weights/inception-2015-12-05-features.safetensors")


@pytest.fixture(scope="module")
def ours(weights):
    return Inception(weights)


@pytest.fixture(scope="module")
def with_classes(weights, tmp_path_factory):
    """A file like the published one, whose last layer is random, for there is none to be had here."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(weights)
    tensors["fc.weight"] = torch.randn(1008, 2048, generator=generator) / 20
    tensors["fc.bias"] = torch.randn(1008, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def theirs(with_classes):
    return FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(with_classes))


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (7, 13), (89, 109), (298, 300), (299, 299), (299, 50), (512, 640)])
def test_images_are_resized_as_tensorflow_1_does_within_a_ten_thousandth_of_a_grey_level(size):
    x = noise(*size).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
    assert float((tensorflow_resize(x, 299) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_the_features_are_torch_fidelitys(ours, theirs, size):
    images = noise(*size)
    found, (expected, _) = ours(images).features, theirs(images)
    assert found.dtype == torch.float32
    assert found.shape == (2, 2048)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_grey_images_are_described_as_coloured_ones_of_equal_channels(ours):
    grey = noise(40, 40)[:, :1]
    torch.testing.assert_close(ours(grey).features, ours(grey.repeat(1, 3, 1, 1)).features, rtol=0, atol=0)


def test_without_the_last_layer_there_are_no_classes_and_the_reason_is_said(ours):
    assert ours(noise(32, 32)).logits is None
    assert "lacks the last layer" in ours.without_classes
    assert "/" not in ours.without_classes, "passports hold it, and no folder of the machine"
    assert "lightning-avatars weights --fetch inception" in ours.without_classes


def test_with_the_last_layer_the_logits_are_torch_fidelitys_and_the_hash_is_the_same(
    ours, theirs, with_classes, monkeypatch
):
    monkeypatch.setattr(module, "locate", lambda *_, path: path)  # the layer is random, so the file has another hash
    extractor, images = Inception(with_classes), noise(64, 64)
    _, expected = theirs(images)
    found = extractor(images).logits
    assert found.shape == (2, 1008)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert (extractor.classes, extractor.without_classes) == (1008, "")
    assert extractor.sha256 == ours.sha256


def test_its_scores_have_the_names_that_mean_this_network_alone(ours):
    assert [ours.score(kind) for kind in ("fd", "kd", "class_score", "precision")] == ["fid", "kid", "is", "precision"]
    assert (ours.name, ours.dim) == ("inception", 2048)


def test_without_weights_it_is_said_where_they_are_looked_for_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"6726825d\.pth or .*features\.safetensors .*--fetch inception"):
        Inception()
