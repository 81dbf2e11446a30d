"""The fully connected autoencoder: shapes, gradients, labels."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_avatars.networks.layers.bottlenecks import DiagonalGaussian, Plain
from lightning_avatars.networks.mlp_autoencoder import MLPAutoencoder


def network(label_dim=0, **arguments):
    torch.manual_seed(0)
    return MLPAutoencoder(8, 2, label_dim, **{"bottleneck": DiagonalGaussian(5), "width": 16} | arguments)


@pytest.mark.parametrize("label_dim", [0, 3])
@pytest.mark.parametrize("numbers", [1, 2])
def test_shapes_and_gradients(label_dim, numbers):
    net = network(label_dim, parameters_per_channel=numbers)
    x, labels = torch.rand(6, 2, 8, 8), torch.rand(6, label_dim)
    made = net(x, labels)
    assert made.output.shape == (6, 2 * numbers, 8, 8) and made.rates[0].shape == (6,)
    assert net.encode(x, labels).shape == net.from_normal(torch.randn(6, 5)).shape == (6, 5)
    (made.output.square().mean() + made.rates[0].mean()).backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.parameters())


def test_decoding_what_was_encoded_is_what_forward_does():
    net, x = network(bottleneck=Plain(5)), torch.rand(3, 2, 8, 8)
    assert torch.equal(net(x).output, net.decode(net.encode(x)))


def test_labels_change_latents_and_images():
    net = network(3)
    a, b = one_hot(torch.tensor([0, 1]), 3).split(1)
    x, z = torch.rand(1, 2, 8, 8), torch.randn(1, 5)
    assert not torch.allclose(net.encode(x, a), net.encode(x, b))
    assert not torch.allclose(net.decode(z, a), net.decode(z, b))
    with pytest.raises(ValueError, match="label_dim=3: give it labels N x 3, got none"):
        net(x)


def test_the_first_layer_of_the_decoder_is_the_entry():
    net, z = network(3), torch.randn(1, 5)
    expected = net.decoder[0](torch.cat([z, torch.zeros(1, 3)], 1)) - net.decoder[0].bias
    torch.testing.assert_close(z @ net.entry.T, expected)


def test_no_layers_are_an_error():
    with pytest.raises(ValueError, match="width and depth must be at least 1, got 16 and 0"):
        network(depth=0)
