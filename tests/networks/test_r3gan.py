"""R3GAN: shapes, variances at the start, gradients, labels, double backward, published sizes."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_avatars.networks.r3gan import R3GANDiscriminator, R3GANGenerator, Residual


def players(resolution=16, label_dim=0, width=8, blocks=1):
    torch.manual_seed(0)
    options = {"width": width, "max_width": 16, "blocks": blocks, "group_width": 8}
    generator = R3GANGenerator(resolution, 3, label_dim, latent_dim=6, **options)
    return generator, R3GANDiscriminator(resolution, 3, label_dim, **options)


def awake(network):
    """Give the last layer of each residual branch, zero at the start, something to say."""
    for module in network.modules():
        if isinstance(module, Residual):
            torch.nn.init.normal_(module.narrow.weight, std=0.1)
    return network


@pytest.mark.parametrize("label_dim", [0, 5])
@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_shapes(resolution, label_dim):
    generator, discriminator = players(resolution, label_dim)
    labels = torch.rand(2, label_dim)
    image = generator(torch.randn(2, 6), labels)
    assert image.shape == (2, 3, resolution, resolution)
    assert discriminator(image, labels).logits[0].shape == (2,)


@pytest.mark.parametrize("resolution", [8, 24, 2048])
def test_wrong_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"power of two from 16 to 1024, got {resolution}"):
        R3GANDiscriminator(resolution)


def test_wrong_widths_and_groups_are_refused():
    with pytest.raises(ValueError, match="4 stages, from 4 x 4 to 32 x 32, got 2"):
        R3GANGenerator(32, widths=[16, 16])
    with pytest.raises(ValueError, match="24 channels can't be cut into groups of 16"):
        R3GANGenerator(16, widths=[12, 12, 12])


@pytest.mark.parametrize(
    ("widths", "sizes"),
    [([768] * 4, (20_732_160, 20_683_777)), ([768] * 4 + [384, 192, 96], (23_057_952, 23_009_569))],
    ids=["CIFAR-10", "FFHQ-256"],
)
def test_published_sizes(widths, sizes):
    """Of the published presets, counted by hand from their widths."""
    resolution, options = 2 << len(widths), {"widths": widths, "blocks": 2}
    with torch.device("meta"):
        players = R3GANGenerator(resolution, **options), R3GANDiscriminator(resolution, **options)
    assert players[0].stages[0][0].mix.groups == 96
    assert tuple(sum(p.numel() for p in player.parameters()) for player in players) == sizes


@pytest.mark.parametrize("resolution", [32, 64])
def test_variances_at_the_start(resolution):
    torch.manual_seed(0)
    generator, discriminator = R3GANGenerator(resolution), R3GANDiscriminator(resolution)
    image = generator(torch.randn(64, 64))
    assert 0.1 < image.std() < 2
    smooth = torch.randn(64, 3, 1, 1).expand(-1, -1, resolution, resolution)
    assert 0.3 < discriminator(smooth).logits[0].std() < 3


def test_residual_branches_keep_the_variance_and_start_silent():
    torch.manual_seed(0)
    block = Residual(64, 2, 16, total=1)
    x = torch.randn(16, 64, 16, 16)
    seen = {}
    block.mix.register_forward_hook(lambda module, inputs, output: seen.update(inside=inputs[0], after=output))
    assert torch.equal(block(x), x)
    assert seen["inside"].square().mean().item() == pytest.approx(1, rel=0.1)
    assert seen["after"].square().mean().item() == pytest.approx(2 / 1.04, rel=0.15)  # before its activation


@pytest.mark.parametrize("label_dim", [0, 5])
def test_gradients_reach_every_parameter(label_dim):
    generator, discriminator = (awake(player) for player in players(16, label_dim, blocks=2))
    labels = torch.rand(4, label_dim)
    discriminator(generator(torch.randn(4, 6), labels), labels).logits[0].square().sum().backward()
    for player in (generator, discriminator):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in player.parameters())


def test_penalty_reaches_every_parameter_that_shapes_the_gradient():
    _, discriminator = players(32, label_dim=5)
    awake(discriminator)
    x, labels = torch.randn(4, 3, 32, 32, requires_grad=True), torch.rand(4, 5)
    (gradient,) = torch.autograd.grad(discriminator(x, labels).logits[0].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for name, p in discriminator.named_parameters():
        if not name.endswith("bias"):  # biases only choose the side of a leaky ReLU
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_discriminator_is_twice_differentiable():
    torch.manual_seed(0)
    discriminator = awake(R3GANDiscriminator(16, 1, 2, width=4, group_width=4)).double()
    x, labels = torch.randn(2, 1, 16, 16, dtype=torch.double, requires_grad=True), torch.rand(2, 2)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x, labels).logits[0], x, fast_mode=True)


def test_same_seed_same_players_and_state_round_trip():
    z = torch.randn(3, 6)
    (generator, discriminator), (other, _) = players(), players()
    image = generator(z)
    assert torch.equal(image, other(z))
    fresh = R3GANDiscriminator(16, width=8, max_width=16, group_width=8)
    fresh.load_state_dict(discriminator.state_dict())
    assert torch.equal(fresh(image).logits[0], discriminator(image).logits[0])


def test_labels_change_images_and_logits():
    generator, discriminator = players(label_dim=5)
    a, b = one_hot(torch.tensor([0, 1]), 5).split(1)
    z, x = torch.randn(1, 6), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(generator(z, a), generator(z, b))
    assert not torch.allclose(discriminator(x, a).logits[0], discriminator(x, b).logits[0])
    assert torch.isfinite(discriminator(x, 0 * a).logits[0]).all()
    with pytest.raises(ValueError, match="labels N x 5, got none"):
        generator(z)


def test_channels_last_changes_nothing():
    generator, discriminator = (awake(player) for player in players(32))
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    assert torch.allclose(discriminator(generator(z)).logits[0], expected, atol=1e-5)


def test_bfloat16_gives_float32_images_and_logits():
    generator, discriminator = (awake(player) for player in players(32, label_dim=5))
    z, labels = torch.randn(8, 6), torch.rand(8, 5)
    expected = generator(z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z, labels)
        logits = discriminator(image, labels).logits[0]
    assert image.dtype == logits.dtype == torch.float32
    assert torch.allclose(image, expected, atol=0.1)
