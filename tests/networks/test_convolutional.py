"""Autoencoders of convolutions: shapes, gradients, labels, words."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_avatars.networks.convolutional import (
    ConvolutionalAutoencoder,
    QuantizedConvolutionalAutoencoder,
    halved_widths,
)
from lightning_avatars.networks.layers.bottlenecks import DiagonalGaussian, Plain
from lightning_avatars.networks.layers.quantizers import FiniteScalarQuantizer, VectorQuantizer


def network(bottleneck=None, **arguments):
    torch.manual_seed(0)
    arguments = {"resolution": 16, "width": 8, "max_width": 32} | arguments
    return ConvolutionalAutoencoder(bottleneck=bottleneck or DiagonalGaussian(4), **arguments)


def quantised(quantizer=None, **arguments):
    torch.manual_seed(0)
    arguments = {"resolution": 16, "width": 8, "grid": 4, "blocks": 1} | arguments
    return QuantizedConvolutionalAutoencoder(quantizer or VectorQuantizer(16, 5), **arguments)


def pictures(count=3, channels=3, resolution=16):
    return torch.rand(count, channels, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("grid", [1, 2, 4, 8])
@pytest.mark.parametrize(("resolution", "channels", "numbers"), [(16, 3, 1), (32, 1, 2)])
def test_shapes(grid, resolution, channels, numbers):
    net = network(grid=grid, resolution=resolution, channels=channels, parameters_per_channel=numbers, blocks=1)
    x = pictures(3, channels, resolution)
    made = net(x)
    assert made.output.shape == (3, channels * numbers, resolution, resolution)
    assert [rate.shape for rate in made.rates] == [(3,)] and made.codes is None
    assert net.latent_dim == 4 * grid**2
    z = net.encode(x)
    assert z.shape == net.from_normal(torch.randn(3, net.latent_dim)).shape == (3, net.latent_dim)
    assert net.decode(z).shape == made.output.shape


@pytest.mark.parametrize("label_dim", [0, 4])
@pytest.mark.parametrize("make", [network, lambda **a: network(Plain(4), grid=4, blocks=1, **a), quantised])
def test_gradients_reach_every_parameter(make, label_dim):
    net = make(label_dim=label_dim)
    made = net(pictures(6), torch.rand(6, label_dim))
    total = made.output.square().mean() + sum(rate.mean() for rate in made.rates) + sum(made.losses.values())
    total.backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.parameters())


@pytest.mark.parametrize("make", [network, quantised])
def test_same_seed_same_network_and_the_state_goes_round(make):
    net, other = make().eval(), make().eval()
    x = pictures()
    assert torch.equal(net.encode(x), other.encode(x))
    fresh = make(quantizer=VectorQuantizer(16, 5)) if make is quantised else make()
    for p in fresh.parameters():
        p.data.mul_(2)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh.eval().decode(net.encode(x)), net.decode(net.encode(x)))


def test_images_of_a_batch_do_not_mix():
    net = network(blocks=1, grid=4).eval()
    x = pictures(4)
    torch.testing.assert_close(net.encode(x)[2:], net.encode(x[2:]), rtol=1e-5, atol=1e-6)
    z = torch.randn(4, net.latent_dim)
    torch.testing.assert_close(net.decode(z)[2:], net.decode(z[2:]), rtol=1e-5, atol=1e-6)


def test_what_is_decoded_of_the_mean_is_what_a_certain_posterior_gives():
    net = network().eval()
    torch.nn.init.zeros_(net.encoder.head.weight[4:])
    net.encoder.head.bias.data[4:] = -30  # log-variances
    x = pictures()
    torch.testing.assert_close(net(x).output, net.decode(net.encode(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [network, quantised])
def test_labels_change_latents_and_images(make):
    net = make(label_dim=4).eval()
    a, b = one_hot(torch.tensor([0, 1]), 4).split(1)
    x, z = pictures(1), torch.randn(1, net.latent_dim)
    assert not torch.allclose(net.decode(z, a), net.decode(z, b))
    features = [net.encoder(x, label) for label in (a, b)]
    assert not torch.allclose(*features)
    with pytest.raises(ValueError, match="label_dim=4: give it labels N x 4, got none"):
        net(x)


@pytest.mark.parametrize("quantizer", [VectorQuantizer(16, 5), FiniteScalarQuantizer([3, 4])])
def test_words_stand_for_latents(quantizer):
    net = quantised(quantizer).eval()
    x = pictures()
    codes = net.encode_codes(x)
    assert codes.shape == (3, *net.places) == (3, 4, 4)
    assert codes.dtype == torch.int64 and codes.min() >= 0 and codes.max() < net.codebook == quantizer.codebook
    torch.testing.assert_close(net.decode_codes(codes), net.decode(net.encode(x)))
    made = net(x)
    assert torch.equal(made.codes, codes)
    torch.testing.assert_close(made.output, net.decode_codes(codes), rtol=1e-4, atol=1e-5)
    assert net.from_normal(torch.randn(2, net.latent_dim)).shape == (2, net.latent_dim)


def test_the_first_layer_of_a_vectors_decoder_is_the_entry():
    net = network(label_dim=2).eval()
    entry = net.entry
    assert entry is not None and entry.shape == (16 * 16, 4)
    z = torch.randn(1, 4)
    given = torch.cat([z, net.decoder.embedding(torch.zeros(1, 2))], 1)[:, :, None, None]
    first = net.decoder.stages[0]
    grid = (entry @ z[0]).view(16, 4, 4) + first.bias[:, None, None]
    torch.testing.assert_close(first(given)[0], grid, rtol=1e-4, atol=1e-5)
    assert network(grid=4).entry is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((24, 1, 8, 8), "resolution must be a power of two from 8 to 512, got 24"),
        ((32, 3, 8, 8), "grid must be a power of two below the resolution 32, got 3"),
        ((32, 32, 8, 8), "grid must be a power of two below the resolution 32, got 32"),
        ((32, 1, 0, 8), "width and max_width must be at least 1, got 0 and 8"),
    ],
)
def test_impossible_sizes_are_errors(arguments, said):
    with pytest.raises(ValueError, match=said):
        halved_widths(*arguments)


def test_words_have_a_network_of_their_own():
    with pytest.raises(ValueError, match="its bottleneck is a VectorQuantizer: use"):
        ConvolutionalAutoencoder(8, 3, bottleneck=VectorQuantizer(16, 4), grid=4)
