"""Residual networks: sizes, norms, labels, spectral norm, double backward and precision."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from lightning_avatars.networks.layers.labels import ClassHead
from lightning_avatars.networks.layers.normalization import LayerNorm2d
from lightning_avatars.networks.resnet import Down, LabelledBatchNorm2d, ResNetDiscriminator, ResNetGenerator, Up


def players(resolution=16, label_dim=0, **arguments):
    torch.manual_seed(0)
    generator = ResNetGenerator(resolution, 3, label_dim, latent_dim=6, width=4, max_width=8)
    arguments = {"width": 4, "max_width": 8} | arguments
    return generator, ResNetDiscriminator(resolution, 3, label_dim, **arguments)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_at_32_are_the_papers():
    """Layer by layer from SNGAN's Table 4 and WGAN-GP's Appendix C."""

    def convolution(before, after, kernel=3):
        return before * after * kernel**2 + after

    def generator(c):
        block = 2 * convolution(c, c) + convolution(c, c, 1) + 2 * 2 * c
        return 128 * 16 * c + 16 * c + 3 * block + 2 * c + convolution(c, 3)

    down = 2 * convolution(128, 128) + convolution(128, 128, 1)
    discriminator = convolution(3, 128) + convolution(128, 128) + convolution(3, 128, 1) + down
    discriminator += 2 * 2 * convolution(128, 128) + 129
    assert count(ResNetGenerator(32, width=256, max_width=256)) == generator(256) == 4_276_739
    assert count(ResNetGenerator(32, width=128, max_width=128)) == generator(128) == 1_204_483
    assert count(ResNetDiscriminator(32, width=128, max_width=128)) == discriminator == 1_053_825
    assert count(ResNetDiscriminator(32, width=128, max_width=128, spectral=True)) == discriminator


def test_widths_at_128_are_those_of_sngans_table_5():
    with torch.device("meta"):
        generator = ResNetGenerator(128, width=64, max_width=1024)
        discriminator = ResNetDiscriminator(128, width=64, max_width=1024, smallest=4, blocks=1)
    assert [stage.convolutions[0].out_channels for stage in generator.stages] == [1024, 512, 256, 128, 64]
    assert generator.first.out_features == 1024 * 16
    assert [s.convolutions[0].out_channels for s in discriminator.stages] == [64, 128, 256, 512, 1024, 1024]
    assert [s.halves for s in discriminator.stages] == [True] * 5 + [False]


@pytest.mark.parametrize("smallest", [4, 8])
@pytest.mark.parametrize("label_dim", [0, 5])
@pytest.mark.parametrize("resolution", [16, 32, 64, 256])
def test_shapes_and_range(resolution, label_dim, smallest):
    generator, discriminator = players(resolution, label_dim, smallest=smallest)
    labels = torch.rand(2, label_dim)
    image = generator(torch.randn(2, 6), labels)
    assert image.shape == (2, 3, resolution, resolution) and image.abs().max() <= 1
    assert discriminator(image, labels).logits[0].shape == (2,)
    assert discriminator.stages(image).shape[2:] == (smallest, smallest)


def test_what_can_not_be_made_is_refused():
    for network in (ResNetGenerator, ResNetDiscriminator):
        with pytest.raises(ValueError, match="power of two from 16 to 1024, got 8"):
            network(8)
    with pytest.raises(ValueError, match="must be 4 or 8, got 6"):
        ResNetDiscriminator(32, smallest=6)


def test_a_block_up_is_the_papers_with_the_shortcut_after_upsampling():
    torch.manual_seed(0)
    block, x = Up(4, 6, 0), torch.randn(2, 4, 4, 4)
    y = interpolate(relu(block.norms[0](x)), scale_factor=2)
    y = block.convolutions[1](relu(block.norms[1](block.convolutions[0](y))))
    torch.testing.assert_close(block(x, None), y + block.shortcut(interpolate(x, scale_factor=2)))


@pytest.mark.parametrize("first", [False, True])
def test_a_block_down_is_the_papers_with_the_shortcut_before_pooling(first):
    torch.manual_seed(0)
    block, x = Down(4, 6, nn.Identity, halves=True, first=first), torch.randn(2, 4, 8, 8)
    y = block.convolutions[1](relu(block.convolutions[0](x if first else relu(x))))
    torch.testing.assert_close(block(x), avg_pool2d(y + block.shortcut(x), 2))


@pytest.mark.parametrize("arguments", [{}, {"spectral": True}, {"normalization": LayerNorm2d}])
@pytest.mark.parametrize("label_dim", [0, 5])
def test_gradients_reach_every_parameter(label_dim, arguments):
    generator, discriminator = players(label_dim=label_dim, **arguments)
    labels = torch.rand(4, label_dim)
    discriminator(generator(torch.randn(4, 6), labels), labels).logits[0].square().sum().backward()
    for network in (generator, discriminator):
        for name, p in network.named_parameters():
            assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_labels_scale_and_shift_after_the_norm():
    torch.manual_seed(0)
    norm, x, labels = LabelledBatchNorm2d(4, 3), torch.randn(6, 4, 5, 5), torch.eye(3).repeat(2, 1)
    plain = norm.norm(x)
    torch.testing.assert_close(norm(x, labels), plain)  # at the start they say nothing
    nn.init.normal_(norm.embedding.weight)
    scale, shift = norm.embedding.weight.detach()[labels.argmax(1)][:, :, None, None].chunk(2, 1)
    torch.testing.assert_close(norm(x, labels), plain * (1 + scale) + shift)


def test_spectral_weights_bound_the_discriminator():
    """Each layer is 1-Lipschitz as a matrix of its kernel; the whole is a constant times the input's change at most."""
    _, discriminator = players(32, 5, spectral=True)
    for layer in discriminator.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.05)
    with torch.no_grad():
        for p in discriminator.parameters():
            p.mul_(10 if p.ndim > 1 else 1)
    x, labels = torch.randn(2, 3, 32, 32), torch.eye(5)[:2]
    before = discriminator.eval()(x, labels).logits[0]
    for p in discriminator.parameters():
        p.data.mul_(3 if p.ndim > 1 else 1)
    torch.testing.assert_close(discriminator(x, labels).logits[0], before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arguments", [{}, {"spectral": True}, {"normalization": LayerNorm2d}])
def test_it_can_be_differentiated_twice_and_judges_images_alone(arguments):
    _, discriminator = players(label_dim=2, **arguments)
    discriminator.double().eval()
    x, labels = torch.randn(2, 3, 16, 16, dtype=torch.double, requires_grad=True), torch.rand(2, 2).double()
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x, labels).logits[0], x, fast_mode=True)
    alone = discriminator(x[:1], labels[:1]).logits[0]
    torch.testing.assert_close(discriminator(x, labels).logits[0][:1], alone)


def test_a_head_of_classes_may_be_given():
    _, discriminator = players(label_dim=5, head=ClassHead, spectral=True)
    verdict = discriminator(torch.randn(2, 3, 16, 16), torch.rand(2, 5))
    assert discriminator.heads == {"class": 5} and verdict.heads["class"].shape == (2, 5)


@pytest.mark.parametrize("spectral", [False, True])
def test_bfloat16_gives_float32_images_and_logits(spectral):
    generator, discriminator = players(label_dim=5, spectral=spectral)
    z, labels = torch.randn(8, 6), torch.rand(8, 5)
    expected = copy.deepcopy(generator)(z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z, labels)
        logits = discriminator(image, labels).logits[0]
    assert image.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(image, expected, atol=0.05, rtol=0.05)
    assert all(b.dtype != torch.bfloat16 for network in (generator, discriminator) for b in network.buffers())


def test_channels_last_changes_nothing():
    generator, discriminator = players(32)
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    image = generator(z)
    assert image.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(discriminator(image).logits[0], expected, rtol=1e-4, atol=1e-5)
