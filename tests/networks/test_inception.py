"""The folded network: as many features as published, and the same as convolutions with their batch norms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_avatars.networks.inception import InceptionNet, Layer, folded, load_inception, published

LAYERS = {published(name): layer for name, layer in InceptionNet().named_modules() if isinstance(layer, Layer)}


@pytest.fixture(scope="module")
def tensors():
    """Seeded random weights under the published names, that keep the activations' scale."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, layer in LAYERS.items():
        shape, width = layer.weight.shape, layer.out_channels
        drawn[f"{name}.conv.weight"] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        drawn[f"{name}.bn.weight"] = 0.5 + torch.rand(width, generator=generator)
        drawn[f"{name}.bn.running_var"] = 0.5 + torch.rand(width, generator=generator)
        drawn[f"{name}.bn.bias"] = torch.randn(width, generator=generator) / 10
        drawn[f"{name}.bn.running_mean"] = torch.randn(width, generator=generator) / 10
    return drawn


def test_the_network_has_the_94_layers_of_the_paper_and_21_768_352_parameters():
    assert len(LAYERS) == 94
    assert sum(p.numel() for layer in LAYERS.values() for p in layer.parameters()) == 21_768_352


@pytest.mark.parametrize("name", ["Conv2d_1a_3x3", "Mixed_6b.branch7x7dbl_2", "Mixed_7c.branch3x3_2b"])
def test_a_folded_layer_equals_a_convolution_batch_norm_and_rectifier(tensors, name):
    plain = LAYERS[name]
    layer = Layer(plain.in_channels, plain.out_channels, plain.kernel_size, plain.stride[0], plain.padding != (0, 0))
    layer.double().load_state_dict(folded(tensors, name))
    x = torch.randn(2, plain.in_channels, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch_norm = nn.BatchNorm2d(plain.out_channels, eps=0.001).double().eval()
    parts = ("weight", "bias", "running_mean", "running_var")
    batch_norm.load_state_dict({part: tensors[f"{name}.bn.{part}"] for part in parts}, strict=False)
    y = F.conv2d(x, tensors[f"{name}.conv.weight"].double(), stride=plain.stride, padding=plain.padding)
    torch.testing.assert_close(layer(x), batch_norm(y).relu(), rtol=1e-12, atol=1e-12)


def test_the_stages_have_the_published_widths_and_their_means_are_the_features(tensors):
    network = load_inception(tensors)
    x = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(2)) * 2 - 1
    shapes, y = [], x
    for stage in (network.stem1, network.stem2, network.middle, network.top):
        y = stage(y)
        shapes.append(tuple(y.shape[1:]))
    assert shapes == [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 8, 8)]
    torch.testing.assert_close(network(x), y.mean((2, 3)))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.stem1.Conv2d_2a_3x3.weight.is_contiguous(memory_format=torch.channels_last)


def test_average_pools_leave_the_padding_out_and_the_last_block_takes_the_maximum(tensors):
    network, ones = load_inception(tensors), torch.ones(1, 1, 5, 5)
    assert torch.equal(network.middle.Mixed_5b.pooled.pool(ones), ones)
    assert torch.equal(network.top.Mixed_7b.pooled.pool(ones), ones)
    peak = torch.zeros(1, 1, 3, 3)
    peak[..., 1, 1] = 1
    assert torch.equal(network.top.Mixed_7c.pooled.pool(peak), torch.ones(1, 1, 3, 3))


def test_the_weights_of_another_network_are_refused_by_the_layer_that_does_not_fit(tensors):
    with pytest.raises(ValueError, match="layer Conv2d_1a_3x3 are missing"):
        load_inception({"features.0.weight": torch.zeros(3)})
    name = "Mixed_5b.branch1x1.conv.weight"
    with pytest.raises(ValueError, match=r"layer Mixed_5b\.branch1x1 are missing or of another shape"):
        load_inception(tensors | {name: torch.zeros(64, 192, 3, 3)})
