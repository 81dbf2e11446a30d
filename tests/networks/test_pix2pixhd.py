"""pix2pixHD's generators: sizes, and what each level computes and trains."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from lightning_avatars.networks.feature_encoder import FeatureEncoder
from lightning_avatars.networks.multiscale import MultiScaleDiscriminator
from lightning_avatars.networks.pix2pixhd import Pix2PixHDTranslator


def small(**arguments):
    torch.manual_seed(0)
    return Pix2PixHDTranslator(32, **{"width": 4, "halvings": 2, "blocks": 1, "local_blocks": 1} | arguments)


def at_level(network, level):
    network.level.fill_(level)
    return network


def test_it_has_as_many_parameters_as_the_papers_save_biases_that_norms_take_away():
    with torch.device("meta"):
        network = Pix2PixHDTranslator(1024, source_channels=36)
    coarse = sum(p.numel() for p in network.coarse.parameters())
    whole = sum(p.numel() for p in network.parameters())
    assert coarse + (1984 + 9 * 2 * 1024 + 960) == 182_546_755
    assert whole - coarse + (32 + 64 + 3 * 2 * 64 + 32) == 56_480 + 18_496 + 3 * 73_856 + 18_464 + 4_707


def test_level_0_is_the_global_generators_image_enlarged():
    network, x = at_level(small(), 0), torch.randn(2, 3, 32, 32)
    image = network(x)
    coarse = network.coarse(avg_pool2d(x, 2))
    assert torch.equal(image, interpolate(coarse, scale_factor=2.0))
    torch.testing.assert_close(avg_pool2d(image, 2), coarse, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_trains_its_own_networks(level):
    network = at_level(small(), level)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    coarse = {name for name, _ in network.named_parameters() if name.startswith("coarse.")}
    output = {"coarse.output.1.weight", "coarse.output.1.bias"}
    fine = {name for name, _ in network.named_parameters()} - coarse
    assert reached == [coarse, fine, fine | coarse - output][level]


def test_levels_1_and_2_make_the_same_image():
    network, x = small(), torch.randn(2, 3, 32, 32)
    assert torch.equal(at_level(network, 1)(x), at_level(network, 2)(x))
    assert not torch.equal(at_level(network, 0)(x), network(x * 0))


def test_a_joined_source_is_seen_by_the_last_convolution():
    network, x = small(joins=True), torch.randn(2, 3, 32, 32)
    pad, last = network.output
    with torch.no_grad():
        last.weight[:, :-3].zero_()  # what the enhancer made
    seen = torch.nn.functional.conv2d(pad(x), last.weight[:, -3:], last.bias)
    torch.testing.assert_close(network(x), seen.tanh())


def test_coarse_images_and_halved_real_ones_are_judged_alike_by_a_discriminator_that_grows():
    torch.manual_seed(0)
    judge = MultiScaleDiscriminator(32, width=4, layers=1, scales=2, grows=True)
    judge.level.fill_(0)
    fake = at_level(small(), 0)(torch.randn(2, 3, 32, 32))
    verdict = judge(fake)
    assert len(verdict.logits) == 1
    alone = judge.scales[1](avg_pool2d(fake, 2))
    assert torch.equal(verdict.logits[0], alone.logits[0])


def test_an_encoders_planes_join_the_source_and_are_trained_with_the_translator():
    encoder = FeatureEncoder(3, ["skin", "hair"], width=4, halvings=2)
    network = small(source_channels=2, encoder=encoder)
    regions = torch.zeros(2, 2, 32, 32)
    regions[:, 0, :16], regions[:, 1, 16:] = 1, 1
    style = network.encoder(torch.randn(2, 3, 32, 32), regions)
    assert network.source_channels == 5
    network(torch.cat([regions, style], 1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
    with pytest.raises(ValueError, match="translates 5 planes"):
        network(regions)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        Pix2PixHDTranslator(48)
    with pytest.raises(ValueError, match="width"):
        small(width=1)
