"""The fully connected GAN: shapes, gradients, labels, double backward."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_avatars.networks.mlp import MLPDiscriminator, MLPGenerator


def players(label_dim=0, resolution=8):
    torch.manual_seed(0)
    generator = MLPGenerator(resolution, 3, label_dim, latent_dim=5, width=16)
    return generator, MLPDiscriminator(resolution, 3, label_dim, width=16, dropout=0.3)


@pytest.mark.parametrize("label_dim", [0, 4])
@pytest.mark.parametrize("resolution", [7, 16])
def test_shapes_and_range(label_dim, resolution):
    generator, discriminator = players(label_dim, resolution)
    labels = torch.rand(3, label_dim)
    image = generator(torch.randn(3, 5), labels)
    assert image.shape == (3, 3, resolution, resolution)
    assert image.abs().max() <= 1
    assert discriminator(image, labels).logits[0].shape == (3,)


@pytest.mark.parametrize("label_dim", [0, 4])
def test_gradients_reach_every_parameter(label_dim):
    generator, discriminator = players(label_dim)
    labels = torch.rand(6, label_dim)
    discriminator(generator(torch.randn(6, 5), labels), labels).logits[0].square().sum().backward()
    for player in (generator, discriminator):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in player.parameters())


def test_same_seed_same_players_and_state_round_trip():
    z = torch.randn(3, 5)
    (generator, discriminator), (other, _) = players(), players()
    image = generator(z)
    assert torch.equal(image, other(z))
    discriminator.eval()
    with torch.no_grad():
        fresh = MLPDiscriminator(8, width=16, dropout=0.3).eval()
    fresh.load_state_dict(discriminator.state_dict())
    assert torch.equal(fresh(image).logits[0], discriminator(image).logits[0])


def test_labels_change_images_and_logits():
    generator, discriminator = players(label_dim=4)
    discriminator.eval()
    a, b = one_hot(torch.tensor([0, 1]), 4).split(1)
    z, x = torch.randn(1, 5), torch.randn(1, 3, 8, 8)
    assert not torch.allclose(generator(z, a), generator(z, b))
    assert not torch.allclose(discriminator(x, a).logits[0], discriminator(x, b).logits[0])


def test_missing_labels_are_named():
    generator, _ = players(label_dim=4)
    with pytest.raises(ValueError, match="label_dim=4: give it labels N x 4, got none"):
        generator(torch.randn(1, 5))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        generator(torch.randn(1, 5), torch.rand(1, 3))


def test_discriminator_is_twice_differentiable():
    discriminator = MLPDiscriminator(4, 1, label_dim=2, width=4).double()
    x, labels = torch.randn(2, 1, 4, 4, dtype=torch.double, requires_grad=True), torch.rand(2, 2)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x, labels).logits[0], x)
