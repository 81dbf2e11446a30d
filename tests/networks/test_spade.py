"""SPADE: published sizes, and what a modulated norm computes."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.spade import Modulation, SPADETranslator


@pytest.mark.parametrize(("planes", "published"), [(151, 96_492_483), (36, 93_048_003)], ids=["ADE20K", "Cityscapes"])
def test_it_has_as_many_parameters_as_the_papers_save_biases(planes, published):
    with torch.device("meta"):
        network = SPADETranslator(256, source_channels=planes)
    assert sum(p.numel() for p in network.parameters()) + 9_088 == published
    assert [block.conv2.weight.shape[0] for block in network.blocks] == [1024, 1024, 1024, 512, 256, 128, 64]


def test_scales_and_shifts_follow_the_source_pixel_by_pixel():
    torch.manual_seed(0)
    layer, x, source = Modulation(2, 3, 4, InstanceNorm2d), torch.randn(2, 2, 6, 6), torch.randn(2, 3, 6, 6)
    hidden = layer.hidden[0](source).relu()
    scale, shift = layer.scale_and_shift(hidden)[:, :2], layer.scale_and_shift(hidden)[:, 2:]
    torch.testing.assert_close(layer(x, source), torch.nn.functional.instance_norm(x) * (1 + scale) + shift)


def test_a_label_that_changes_changes_the_image_there_most():
    torch.manual_seed(0)
    network = SPADETranslator(32, source_channels=2, width=8, hidden=8, lowest=4).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    regions = torch.zeros(1, 2, 32, 32)
    regions[:, 0] = 1
    other = regions.clone()
    other[:, :, 4:8, 4:8] = torch.tensor([0.0, 1.0])[:, None, None]
    with torch.no_grad():
        change = (network(regions) - network(other)).abs().mean((0, 1))
    assert change[4:8, 4:8].mean() > 2 * change[16:, 16:].mean()


@pytest.mark.parametrize("arguments", [{"resolution": 96}, {"resolution": 16}, {"lowest": 1}])
def test_resolutions_it_cannot_reach_by_doubling_are_refused(arguments):
    with pytest.raises(ValueError, match=r"data\.resolution"):
        SPADETranslator(**arguments)
