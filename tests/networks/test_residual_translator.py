"""CycleGAN's generator: size, and what its layers do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, instance_norm, pad

from lightning_avatars.networks.residual_translator import ResidualTranslator


@pytest.mark.parametrize(("blocks", "published"), [(9, 11_378_179), (6, 7_837_699)])
def test_it_has_as_many_parameters_as_the_papers_save_biases_that_norms_take_away(blocks, published):
    biases = 64 + 128 + 256 + blocks * 2 * 256 + 128 + 64
    with torch.device("meta"):
        network = ResidualTranslator(256, blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) + biases == published


def test_it_computes_what_the_paper_says():
    torch.manual_seed(0)
    network, x = ResidualTranslator(16, width=4, blocks=2).double(), torch.randn(2, 3, 16, 20, dtype=torch.float64)
    first, down1, down2 = (stage[-3].weight for stage in network.encoder)
    up1, up2 = (stage[0].weight for stage in network.decoder)
    y = instance_norm(conv2d(pad(x, (3,) * 4, "reflect"), first)).relu()
    for weight in (down1, down2):
        y = instance_norm(conv2d(y, weight, stride=2, padding=1)).relu()
    for block in network.blocks:
        h = instance_norm(conv2d(pad(y, (1,) * 4, "reflect"), block.layers[1].weight)).relu()
        y = y + instance_norm(conv2d(pad(h, (1,) * 4, "reflect"), block.layers[5].weight))
    for weight in (up1, up2):
        y = instance_norm(conv_transpose2d(y, weight, stride=2, padding=1, output_padding=1)).relu()
    image = conv2d(pad(y, (3,) * 4, "reflect"), network.output[1].weight, network.output[1].bias).tanh()
    torch.testing.assert_close(network(x), image)


def test_another_norm_may_be_given():
    network = ResidualTranslator(16, width=4, blocks=1, normalization=nn.BatchNorm2d)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 7
    assert not network.training or network(torch.randn(2, 3, 16, 16)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("arguments", [{"blocks": -1}, {"width": 0}, {"halvings": -1}])
def test_networks_that_cannot_be_are_refused(arguments):
    with pytest.raises(ValueError, match="at least"):
        ResidualTranslator(16, **arguments)
