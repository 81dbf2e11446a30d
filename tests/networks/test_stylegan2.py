"""StyleGAN2: demodulation against explicit kernels, published sizes, noise, styles, labels, gradients, half floats."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, one_hot

from lightning_avatars.networks.layers.equalized import activate
from lightning_avatars.networks.stylegan1 import StyleGAN1Generator
from lightning_avatars.networks.stylegan2 import (
    ResidualBlock,
    StyledConv2d,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    ToImage,
    activate_scaled,
)


def players(resolution=16, label_dim=0, style_mixing=0.0):
    torch.manual_seed(0)
    widths = {"width": 4, "max_width": 8}
    generator = StyleGAN2Generator(
        resolution, 3, label_dim, 6, 5, mapping_layers=2, style_mixing=style_mixing, **widths
    )
    return generator, StyleGAN2Discriminator(resolution, 3, label_dim, **widths)


def noisy(generator):
    """Give noise, silent at the start, a strength."""
    for name, p in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.constant_(p, 0.5)
    return generator


def explicit(layer: StyledConv2d, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """What the paper says: scale the kernel by the style, normalise it, give each image its own (Eqs. 1 and 3)."""
    scales, outputs = layer.affine(style), []
    up = layer.filter is not None
    weight = (layer.weight.transpose(0, 1) if up else layer.weight) * layer.scale
    for image, scale in zip(x, scales, strict=True):
        kernel = weight * scale[:, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(kernel.flatten(1).norm(dim=1), torch.ones_like(kernel[:, 0, 0, 0]))
        if up:
            y = layer.filter.smooth(conv_transpose2d(image[None], kernel.transpose(0, 1), stride=2), 1, gain=4)
        else:
            y = conv2d(image[None], kernel, padding=1)
        outputs.append(y)
    return activate(torch.cat(outputs) + layer.bias[:, None, None])


@pytest.mark.parametrize("up", [False, True])
def test_scaled_inputs_and_outputs_equal_kernels_of_unit_norm_with_both_derivatives(up):
    torch.manual_seed(0)
    layer = StyledConv2d(6, 4, 8, 5, up).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 6, 4 if up else 8, 4 if up else 8, dtype=torch.double, requires_grad=True)
    style = torch.randn(3, 5, dtype=torch.double, requires_grad=True)
    inputs = [x, style, *(p for name, p in layer.named_parameters() if "noise" not in name)]
    found = []
    for y in (layer(x, style, "none"), explicit(layer, x, style)):
        slopes = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        curvatures = torch.autograd.grad(slopes[0].square().sum() + slopes[1].square().sum(), inputs)
        found.append([y, *slopes, *curvatures])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_demodulated_features_have_unit_variance_whatever_the_style():
    torch.manual_seed(0)
    layer = StyledConv2d(64, 64, 16, 8)
    x, style = torch.randn(4, 64, 16, 16), 3 * torch.randn(4, 8)
    scales, demodulation = layer.scales(style)
    y = conv2d(x * scales[:, :, None, None], layer.weight, padding=1) * demodulation[:, :, None, None]
    assert y[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


def test_the_colours_kernels_are_scaled_by_the_style():
    torch.manual_seed(0)
    layer = ToImage(6, 3, 5)
    x, style = torch.randn(2, 6, 4, 4), torch.randn(2, 5)
    kernels = layer.weight * layer.affine(style)[:, None] / 6**0.5
    expected = torch.stack([conv2d(i[None], k[:, :, None, None])[0] for i, k in zip(x, kernels, strict=True)])
    torch.testing.assert_close(layer(x, style), expected)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last), style), expected)


@pytest.mark.parametrize(
    ("resolution", "width", "generator_count", "discriminator_count"),
    [
        (1024, 32, 30_370_060, 29_012_513),
        (256, 128, 30_034_338, 28_864_129),
        (256, 64, 24_767_458, 24_001_089),
    ],
)
def test_published_sizes(resolution, width, generator_count, discriminator_count):
    with torch.device("meta"):
        generator = StyleGAN2Generator(resolution, width=width)
        discriminator = StyleGAN2Discriminator(resolution, width=width)
    assert sum(p.numel() for p in generator.parameters()) == generator_count
    assert sum(p.numel() for p in discriminator.parameters()) == discriminator_count
    assert generator.styles == 2 * (resolution.bit_length() - 2)


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
    for player in (StyleGAN2Generator, StyleGAN2Discriminator):
        with pytest.raises(ValueError, match=f"power of two from 8 to 1024, got {resolution}"):
            player(resolution)


def test_variances_at_the_start():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(32, latent_dim=64, style_dim=64, width=16, max_width=64)
    discriminator = StyleGAN2Discriminator(32, width=16, max_width=64)
    assert 0.3 < generator(torch.randn(32, 64)).std() < 3
    smooth = torch.randn(32, 3, 1, 1).expand(-1, -1, 32, 32)  # which no filter changes
    x = discriminator.input(smooth)
    for stage in discriminator.stages:
        x = stage(x)
        assert 0.3 < x.square().mean() < 3
    assert 0.02 < discriminator(smooth).logits[0].square().mean() < 5


@pytest.mark.parametrize("label_dim", [0, 5])
def test_gradients_reach_every_parameter(label_dim):
    generator, discriminator = players(16, label_dim, style_mixing=0.5)
    labels = torch.rand(4, label_dim)
    discriminator(generator(torch.randn(4, 6), labels), labels).logits[0].square().sum().backward()
    for player in (generator, discriminator):
        for name, p in player.named_parameters():
            assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_penalty_reaches_every_parameter_that_shapes_the_gradient():
    _, discriminator = players(16, label_dim=5)
    x, labels = torch.randn(4, 3, 16, 16, requires_grad=True), torch.rand(4, 5)
    (gradient,) = torch.autograd.grad(discriminator(x, labels).logits[0].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for name, p in discriminator.named_parameters():
        if not name.endswith("bias"):  # biases only choose the side of a leaky ReLU
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_both_players_are_twice_differentiable():
    generator, discriminator = (player.double() for player in players(8))
    x = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x).logits[0], x, fast_mode=True)
    styles = torch.randn(2, generator.styles, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda s: noisy(generator).synthesis(s, "constant"), styles, fast_mode=True)


def test_the_same_seed_gives_the_same_picture_in_evaluation_alone_or_in_a_batch():
    generator, _ = players()
    noisy(generator).eval()
    z = torch.randn(3, 6)
    image = generator(z)
    assert torch.equal(image, generator(z))
    torch.testing.assert_close(generator(z[1:2]), image[1:2])
    other, _ = players()
    assert torch.equal(noisy(other).eval()(z), image)
    fresh = StyleGAN2Generator(16, 3, 0, 6, 5, 4, 8, mapping_layers=2).eval()
    fresh.load_state_dict(generator.state_dict())
    assert torch.equal(fresh(z), image), "constants of the noise are in the state"


def test_noise_is_new_while_training_and_constant_or_absent_when_asked():
    generator, _ = players()
    styles = torch.randn(2, generator.styles, 5)
    assert torch.equal(generator.synthesis(styles, "random"), generator.synthesis(styles, "none")), "silent at first"
    noisy(generator)
    random = [generator.synthesis(styles, "random") for _ in range(2)]
    constant = [generator.synthesis(styles, "constant") for _ in range(2)]
    none = [generator.synthesis(styles, "none") for _ in range(2)]
    assert not torch.equal(*random) and torch.equal(*constant) and torch.equal(*none)
    assert not torch.allclose(constant[0], none[0])
    same = generator.synthesis(styles[:1].expand(2, -1, -1), "random")
    assert not torch.allclose(same[0], same[1]), "each image has noise of its own"


@pytest.mark.parametrize("kind", [StyleGAN1Generator, StyleGAN2Generator])
def test_a_generator_without_noise_has_no_strengths_and_draws_the_same_in_every_mode(kind):
    torch.manual_seed(0)
    generator = kind(16, 3, 0, 6, 5, 4, 8, mapping_layers=2, style_mixing=0.0, noisy=False)
    assert not [name for name in generator.state_dict() if "noise" in name]
    z = torch.randn(2, 6)
    image = generator(z)
    styles = generator.spread(generator.mapping(z))
    for mode in ("random", "constant", "none"):
        assert torch.equal(generator.synthesis(styles, mode), image)
    silent = kind(16, 3, 0, 6, 5, 4, 8, mapping_layers=2, style_mixing=0.0)
    silent.load_state_dict(generator.state_dict(), strict=False)
    assert torch.equal(silent(z), image), "with noise of no strength it is the same network"
    image.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())


def test_truncation_to_nothing_gives_one_image_and_none_gives_the_images():
    generator, _ = players(label_dim=5)
    z, labels = torch.randn(4, 6), torch.rand(4, 5)
    generator(z, labels)  # moves the mean style
    generator.eval()
    images = generator.truncated(z, labels, 0.0)
    torch.testing.assert_close(images, images[:1].expand_as(images))
    torch.testing.assert_close(generator.truncated(z, labels, 1.0), generator(z, labels))
    between = [(generator.truncated(z, labels, psi) - images).abs().mean() for psi in (0.3, 0.7, 1.0)]
    assert between[0] < between[1] < between[2]
    with pytest.raises(ValueError, match="truncation_psi must be from 0"):
        generator.truncated(z, labels, 1.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_styles_are_mixed_in_this_share_of_the_images(share):
    generator, _ = players(style_mixing=share)
    w = generator.mapping(torch.randn(2000, 6))
    styles = generator.mix(w, None)
    assert torch.equal(styles[:, 0], w), "the first layer keeps its style"
    mixed = (styles[:, -1] != w).any(1).float().mean().item()
    assert mixed == pytest.approx(share, abs=0.04)
    with pytest.raises(ValueError, match="style_mixing is a share"):
        players(style_mixing=1.5)


def test_early_styles_move_the_whole_image_and_the_last_only_its_colours():
    """The last style belongs to the last image layer: it changes the sum by a linear map of the features."""
    generator, _ = players()
    styles = torch.randn(1, generator.styles, 5)
    early, late = styles.clone(), styles.clone()
    early[:, 0], late[:, -1] = torch.randn(5), torch.randn(5)
    images = [generator.synthesis(s, "none") for s in (styles, early, late)]
    assert not torch.allclose(images[0], images[1]) and not torch.allclose(images[0], images[2])
    middle = generator.synthesis((styles + late) / 2, "none")
    torch.testing.assert_close(middle, (images[0] + images[2]) / 2)


def test_labels_change_images_and_logits_and_can_be_none_of_them():
    generator, discriminator = players(label_dim=5)
    a, b = one_hot(torch.tensor([0, 1]), 5).split(1)
    z, x = torch.randn(1, 6), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(generator(z, a), generator(z, b))
    assert not torch.allclose(discriminator(x, a).logits[0], discriminator(x, b).logits[0])
    assert torch.isfinite(discriminator(x, 0 * a).logits[0]).all()
    for player, given in ((generator, z), (discriminator, x)):
        with pytest.raises(ValueError, match="labels N x 5, got none"):
            player(given)


def test_the_discriminator_sees_how_images_of_a_group_differ_and_no_further():
    _, discriminator = players()
    x = torch.randn(8, 3, 16, 16)
    other = torch.cat([x[:4], torch.randn(4, 3, 16, 16)])
    logits, changed = discriminator(x).logits[0], discriminator(other).logits[0]
    torch.testing.assert_close(changed[:4], logits[:4])
    same_first = torch.cat([x[:1], x[:1].expand(3, -1, -1, -1)])
    assert not torch.allclose(discriminator(same_first).logits[0][0], logits[0])


def test_channels_last_changes_nothing():
    generator, discriminator = players(32)
    generator.eval()
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    torch.testing.assert_close(discriminator(generator(z)).logits[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_images_and_logits(dtype):
    generator, discriminator = players(32, label_dim=5)
    noisy(generator).eval()
    z, labels = torch.randn(8, 6), torch.rand(8, 5)
    expected = generator(z, labels)
    with torch.autocast("cpu", dtype):
        image = generator(z, labels)
        logits = discriminator(image, labels).logits[0]
    assert image.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(image, expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(logits, discriminator(expected, labels).logits[0], rtol=0.1, atol=0.1)


def test_float16_survives_large_styles_weights_and_activations():
    """Without the scaling of styles the features would leave the range of float16; past the clamp they stay in it."""
    torch.manual_seed(0)
    layer = StyledConv2d(64, 64, 8, 5)
    with torch.no_grad():
        layer.weight *= 100
    x, style = 200 * torch.randn(2, 64, 8, 8), 1000 * torch.randn(2, 5)
    expected = layer(x, style, "none").clamp(-51.2, 256)
    with torch.autocast("cpu", torch.float16):
        found = layer(x.half(), style, "none")
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=1)
    assert activate_scaled(torch.tensor([1e4, -1e4], dtype=torch.float16)).tolist() == [256, pytest.approx(-51.2, 0.01)]


def test_compiled_layers_give_the_same():
    """With a backend that needs no compiler of C; one graph each, for nothing depends on values."""
    torch.manual_seed(0)
    for layer, inputs in (
        (StyledConv2d(4, 3, 8, 5, up=True), (torch.randn(2, 4, 4, 4), torch.randn(2, 5), "constant")),
        (ResidualBlock(4, 3), (torch.randn(2, 4, 8, 8),)),
    ):
        y = torch.compile(layer, backend="aot_eager", fullgraph=True)(*inputs)
        torch.testing.assert_close(y, layer(*inputs))
        found = torch.autograd.grad(y.square().sum(), layer.parameters())
        expected = torch.autograd.grad(layer(*inputs).square().sum(), layer.parameters())
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
