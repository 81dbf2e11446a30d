"""The recogniser: shapes, gradients, sizes of images, and its file."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from lightning_avatars.networks.recognizer import RecognitionNet, load_recognizer, save_recognizer

NAMES = ["hair=short", "hair=curly", "Smiling"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RecognitionNet(32, 3, NAMES, width=8).eval()


def test_a_logit_per_label_from_features(network):
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    features = network.features(x)
    assert features.shape == (4, 64)
    assert features.dtype == torch.float32
    assert torch.allclose(network(x), network.heads(features))
    assert network(x).shape == (4, 3)


@pytest.mark.parametrize("size", [16, 32, 64, 100])
def test_images_of_any_size_are_seen_at_the_same_size(network, size):
    tone = torch.full((2, 3, size, size), 0.3)
    assert torch.allclose(network(tone), network(torch.full((2, 3, 32, 32), 0.3)), atol=1e-5)


def test_large_images_are_antialiased(network):
    stripes = torch.ones(1, 3, 128, 128)
    stripes[..., ::2] = -1
    assert torch.allclose(network(stripes), network(torch.zeros(1, 3, 32, 32)), atol=0.05)


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (100, 33)])
def test_images_with_gradients_are_resized_by_matrices_to_the_same(network, size):
    x = torch.randn(2, 3, *size, dtype=torch.double)
    assert network.resized(x).shape == (2, 3, 32, 32)
    leaf, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = interpolate(plain, (32, 32), mode="bilinear", antialias=True)
    weight = torch.randn_like(expected)
    with torch.autocast("cpu", torch.bfloat16):
        made = network.resized(leaf)
    torch.testing.assert_close(made, expected)
    (made * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad)
    assert torch.equal(network.resized(x), expected), "scores are of torch's own numbers"


@pytest.mark.parametrize("resolution", [28, 32, 64])
def test_a_gradient_reaches_every_parameter(resolution):
    network = RecognitionNet(resolution, 1, NAMES, width=8)
    network(torch.randn(4, 1, resolution, resolution)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_saved_network_is_the_same_within_half_precision(network, tmp_path):
    path = tmp_path / "folder" / "net.safetensors"
    save_recognizer(network, path)
    loaded = load_recognizer(path)
    assert (loaded.resolution, loaded.channels, loaded.label_names, loaded.width) == (32, 3, NAMES, 8)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    x = torch.rand(4, 3, 32, 32)
    np.testing.assert_allclose(loaded(x), network(x).detach(), atol=2e-3)


def test_the_shipped_size_fits_in_three_megabytes(tmp_path):
    path = tmp_path / "net.safetensors"
    save_recognizer(RecognitionNet(64, 3, [f"hair={i}" for i in range(80)]), path)
    assert path.stat().st_size < 3_000_000


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors is not a recogniser"):
        load_recognizer(path)
