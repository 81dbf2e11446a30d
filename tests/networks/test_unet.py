"""pix2pix's U-Net: size, depth, and what it drops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_avatars.networks.unet import UNet


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_it_has_as_many_parameters_as_the_papers():
    with torch.device("meta"):
        assert count(UNet(256)) == 54_413_955


@pytest.mark.parametrize(("resolution", "halvings"), [(256, 8), (512, 8), (64, 6), (96, 5), (48, 4), (16, 4)])
def test_depth_follows_the_resolution(resolution, halvings):
    with torch.device("meta"):
        network = UNet(resolution, width=4)
    assert len(network.encoder) == halvings and network.multiple == 2**halvings


@pytest.mark.parametrize("resolution", [63, 6])
def test_resolutions_that_cannot_be_halved_twice_are_refused(resolution):
    with pytest.raises(ValueError, match=f"{resolution} x {resolution}"):
        UNet(resolution)


def test_the_three_innermost_layers_of_the_decoder_drop_features_in_training_alone():
    torch.manual_seed(0)
    network, x = UNet(64, width=4), torch.randn(2, 3, 64, 64)
    assert [stage[-1].p for stage in network.decoder] == [0.5, 0.5, 0.5, 0, 0]
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_every_pixel_may_depend_on_every_other():
    """The innermost features are one pixel, and the outermost are shown to the decoder."""
    torch.manual_seed(0)
    network = UNet(32, width=4, dropout=0, normalization=nn.Identity).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[0, 0, 0, 0], x)
    assert gradient.ne(0).all()


def test_the_plain_formula_of_the_paper_gives_the_same():
    """Leaky ReLU before each halving and ReLU before each doubling, of features that are kept without either."""
    torch.manual_seed(0)
    network, x = UNet(16, width=4, dropout=0), torch.randn(3, 3, 16, 16)
    kept = [network.encoder[0][0](x)]
    for convolution, norm, _ in network.encoder[1:]:
        kept.append(norm(convolution(nn.functional.leaky_relu(kept[-1], 0.2))))
    y = kept.pop()
    for convolution, norm, _ in network.decoder:
        y = torch.cat([norm(convolution(y.relu())), kept.pop()], 1)
    torch.testing.assert_close(network(x), network.output(y.relu()).tanh())
