"""The segmenter: shapes, gradients, sizes of images, and its file."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_avatars.networks.segmenter import SegmentationNet, read_segmenter, save_segmenter

NAMES = ["background", "skin", "hair"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SegmentationNet(32, 3, NAMES, width=4).eval()


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (48, 64)])
def test_a_logit_per_pixel_and_part_at_any_size_that_can_be_halved(network, size):
    assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_a_gradient_reaches_every_parameter():
    network = SegmentationNet(16, 1, NAMES, width=4, halvings=3)
    (network(torch.randn(4, 1, 16, 16)) ** 3).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_same_seed_is_the_same_network_and_each_image_is_named_alone(network):
    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32)
    torch.manual_seed(0)
    assert torch.equal(SegmentationNet(32, 3, NAMES, width=4).eval()(x), network(x))
    torch.testing.assert_close(network(x[1:2]), network(x)[1:2])


def test_channels_and_convolutions_are_those_of_the_docstring():
    network = SegmentationNet(64, 3, NAMES, width=16, halvings=4)
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [
        16, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 64, 64, 32, 32, 16, 16, 3,
    ]  # fmt: skip
    assert [c.in_channels for c in convolutions[10::2]] == [256, 192, 96, 48, 16]


def test_sizes_that_can_not_be_halved_are_named(network):
    with pytest.raises(ValueError, match=r"halves images 4 times can't take 28 x 28 pixels: use multiples of 16"):
        SegmentationNet(28, 3, NAMES)
    with pytest.raises(ValueError, match="32 x 40 pixels"):
        network(torch.rand(1, 3, 32, 40))


def test_a_saved_network_is_the_same_within_half_precision(network, tmp_path):
    path = tmp_path / "folder" / "net.safetensors"
    save_segmenter(network, path)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loaded = read_segmenter(path)
    assert torch.equal(torch.get_rng_state(), before), "reading draws nothing"
    assert (loaded.resolution, loaded.channels, loaded.mask_names) == (32, 3, NAMES)
    assert (loaded.width, loaded.halvings) == (4, 4) and not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    x = torch.rand(4, 3, 32, 32)
    np.testing.assert_allclose(loaded(x), network(x).detach(), atol=2e-3)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors is not a segmenter"):
        read_segmenter(path)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"other\.safetensors is not a segmenter"):
        read_segmenter(path)
