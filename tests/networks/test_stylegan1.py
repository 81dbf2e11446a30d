"""StyleGAN: AdaIN against its definition, published sizes, noise, styles, labels, gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from lightning_avatars.networks.stylegan1 import (
    AdaptiveNorm,
    Standardize,
    StyleGAN1Discriminator,
    StyleGAN1Generator,
    UpConv2d,
)
from lightning_avatars.networks.stylegan2 import StyleGAN2Discriminator


def players(resolution=16, label_dim=0, style_mixing=0.0):
    torch.manual_seed(0)
    widths = {"width": 4, "max_width": 8}
    generator = StyleGAN1Generator(
        resolution, 3, label_dim, 6, 5, mapping_layers=2, style_mixing=style_mixing, **widths
    )
    return generator, StyleGAN1Discriminator(resolution, 3, label_dim, **widths)


def test_adain_gives_each_channel_the_mean_and_deviation_of_its_style():
    torch.manual_seed(0)
    norm = AdaptiveNorm(4, 5)
    x, style = 3 * torch.randn(2, 4, 8, 8) + 2, torch.randn(2, 5)
    scale, shift = norm.affine(style).chunk(2, 1)
    y = norm(x, style)
    torch.testing.assert_close(y.mean((2, 3)), shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y.std((2, 3), correction=0), (scale + 1).abs(), rtol=1e-4, atol=1e-5)


def test_standardizing_equals_instance_norm_with_all_its_derivatives():
    x = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    y = torch.randn(2, 3, 4, 4, dtype=torch.double)
    found = []
    for normal in (Standardize.apply(x)[0], torch.nn.functional.instance_norm(x, eps=1e-8)):
        (slope,) = torch.autograd.grad((normal.sin() * y).sum(), x, create_graph=True)
        found.append((normal, slope, *torch.autograd.grad(slope.square().sum(), x)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(Standardize.apply, x) and torch.autograd.gradgradcheck(Standardize.apply, x)


def test_upsampling_is_doubling_convolution_and_blur_but_for_the_edge():
    torch.manual_seed(0)
    layer, x, blur = UpConv2d(3, 2), torch.randn(2, 3, 6, 6), torch.tensor([1.0, 2.0, 1.0]) / 4
    y = conv2d(interpolate(x, scale_factor=2), layer.weight.flip(2, 3) * layer.scale, padding=1)
    expected = conv2d(y, blur.outer(blur).expand(2, 1, 3, 3), padding=1, groups=2)
    torch.testing.assert_close(layer(x)[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2])


def test_published_size():
    """26.2 M in the paper's Sec. 2, with a layer to, or from, colours for each resolution but the last too."""
    with torch.device("meta"):
        generator = StyleGAN1Generator(1024, width=16)
        discriminator = StyleGAN1Discriminator(1024, width=16)
    others = [512, 512, 512, 512, 256, 128, 64, 32]
    count = sum(p.numel() for p in generator.parameters()) + sum(3 * width + 3 for width in others)
    assert count == 26_219_627
    count = sum(p.numel() for p in discriminator.parameters()) + sum(3 * width + width for width in others)
    assert count == 23_087_249
    assert generator.styles == 18


def test_the_discriminator_is_that_of_stylegan2_without_skips():
    _, plain = players()
    residual = StyleGAN2Discriminator(16, width=4, max_width=8)
    missing = residual.state_dict().keys() - plain.state_dict().keys()
    assert missing == {"stages.0.skip.weight", "stages.1.skip.weight"}
    assert not plain.state_dict().keys() - residual.state_dict().keys()


@pytest.mark.parametrize("label_dim", [0, 5])
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_shapes(resolution, label_dim):
    generator, discriminator = players(resolution, label_dim, style_mixing=0.9)
    labels = torch.rand(2, label_dim)
    image = generator(torch.randn(2, 6), labels)
    assert image.shape == (2, 3, resolution, resolution)
    assert discriminator(image, labels).logits[0].shape == (2,)


@pytest.mark.parametrize("resolution", [4, 24, 2048])
def test_wrong_resolutions_are_refused(resolution):
    for player in (StyleGAN1Generator, StyleGAN1Discriminator):
        with pytest.raises(ValueError, match=f"power of two from 8 to 1024, got {resolution}"):
            player(resolution)


def test_variances_at_the_start():
    torch.manual_seed(0)
    generator = StyleGAN1Generator(32, latent_dim=64, style_dim=64, width=16, max_width=64)
    discriminator = StyleGAN1Discriminator(32, width=16, max_width=64)
    assert 0.3 < generator(torch.randn(32, 64)).std() < 3
    smooth = torch.randn(32, 3, 1, 1).expand(-1, -1, 32, 32)
    assert 0.02 < discriminator(smooth).logits[0].square().mean() < 5


@pytest.mark.parametrize("label_dim", [0, 5])
def test_gradients_reach_every_parameter(label_dim):
    generator, discriminator = players(16, label_dim, style_mixing=0.5)
    labels = torch.rand(4, label_dim)
    discriminator(generator(torch.randn(4, 6), labels), labels).logits[0].square().sum().backward()
    for player in (generator, discriminator):
        for name, p in player.named_parameters():
            assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_both_players_are_twice_differentiable():
    generator, discriminator = (player.double() for player in players(8))
    x = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x).logits[0], x, fast_mode=True)
    styles = torch.randn(2, generator.styles, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda s: generator.synthesis(s, "constant"), styles, fast_mode=True)


def test_the_same_seed_gives_the_same_picture_in_evaluation():
    generator, _ = players()
    generator.eval()
    z = torch.randn(3, 6)
    image = generator(z)
    assert torch.equal(image, generator(z))
    torch.testing.assert_close(generator(z[1:2]), image[1:2])
    fresh = StyleGAN1Generator(16, 3, 0, 6, 5, 4, 8, mapping_layers=2).eval()
    fresh.load_state_dict(generator.state_dict())
    assert torch.equal(fresh(z), image)


def test_noise_is_new_while_training_and_constant_or_absent_when_asked():
    generator, _ = players()
    for name, p in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(p, 0.5)
    styles = torch.randn(2, generator.styles, 5)
    modes = ("random", "constant", "none")
    random, constant, none = ([generator.synthesis(styles, mode) for _ in range(2)] for mode in modes)
    assert not torch.equal(*random) and torch.equal(*constant) and torch.equal(*none)
    assert not torch.allclose(constant[0], none[0])


def test_truncation_to_nothing_gives_one_image():
    generator, _ = players(label_dim=5)
    z, labels = torch.randn(4, 6), torch.rand(4, 5)
    generator(z, labels)
    generator.eval()
    images = generator.truncated(z, labels, 0.0)
    torch.testing.assert_close(images, images[:1].expand_as(images))
    torch.testing.assert_close(generator.truncated(z, labels, 1.0), generator(z, labels))


@pytest.mark.parametrize("layer", [0, 2, 5])
def test_each_layer_has_a_style_of_its_own(layer):
    generator, _ = players()
    styles = torch.randn(1, generator.styles, 5)
    other = styles.clone()
    other[:, layer] = torch.randn(5)
    assert not torch.allclose(generator.synthesis(styles, "none"), generator.synthesis(other, "none"))


def test_labels_change_images_and_logits():
    generator, discriminator = players(label_dim=5)
    a, b = torch.eye(5)[:2].split(1)
    z, x = torch.randn(1, 6), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(generator(z, a), generator(z, b))
    assert not torch.allclose(discriminator(x, a).logits[0], discriminator(x, b).logits[0])


def test_channels_last_changes_nothing():
    generator, discriminator = players(32)
    generator.eval()
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    torch.testing.assert_close(discriminator(generator(z)).logits[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_images(dtype):
    generator, _ = players(32)
    generator.eval()
    z = torch.randn(8, 6)
    expected = generator(z)
    with torch.autocast("cpu", dtype):
        image = generator(z)
    assert image.dtype == torch.float32
    assert (image - expected).square().mean().sqrt() < 0.1 * expected.std()
