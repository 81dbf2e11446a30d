import math

import pytest
import torch
from torch.nn.functional import conv2d

from lightning_avatars.networks import style
from lightning_avatars.networks.stylegan3 import HALF_LIFE, FourierFeatures, Modulated, StyleGAN3Generator, bands
from lightning_avatars.recompute import recompute


def tiny(resolution: int = 16, rotation: bool = False, **arguments) -> StyleGAN3Generator:
    torch.manual_seed(0)
    arguments = {"latent_dim": 8, "style_dim": 8, "width": 4, "max_width": 8, "layers": 4, "margin": 2} | arguments
    return StyleGAN3Generator(resolution, rotation=rotation, **arguments)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize(("resolution", "channels"), [(16, 1), (32, 3), (64, 3)])
def test_latents_become_images(resolution, channels, rotation):
    generator = tiny(resolution, rotation, channels=channels)
    assert generator(torch.randn(2, 8)).shape == (2, channels, resolution, resolution)


@pytest.mark.parametrize(
    ("resolution", "width", "max_width", "rotation", "count"),
    [
        (1024, 32, 512, False, 22_313_167),  # the paper's 22.3 M
        (256, 128, 1024, True, 15_779_565),  # the paper's 15.8 M: ablations at 256 x 256 have half of the widths
        (1024, 64, 1024, True, 15_093_151),  # printed by the published code (github.com/NVlabs/stylegan3/issues/181)
        (512, 128, 1024, True, 16_665_594),  # the same (issues/229)
        (256, 128, 512, False, 28_472_133),  # follows from the same rules; published nowhere that we know of
        (256, 64, 512, False, 23_320_443),  # the same
    ],
)
def test_parameters_are_as_many_as_the_papers(resolution, width, max_width, rotation, count):
    with torch.device("meta"):
        generator = StyleGAN3Generator(
            resolution, latent_dim=512, style_dim=512, width=width, max_width=max_width, rotation=rotation
        )
    assert sum(p.numel() for p in generator.parameters()) == count


def test_bands_are_those_of_the_paper():
    """Rates, sizes and widths that the published code prints for 1024 x 1024; cutoffs and stopbands of Sec. 3.2."""
    plan = bands(1024, layers=14, margin=10, width=64, max_width=1024)
    sizes = [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024]
    assert [band.size for band in plan[:12]] == sizes[:12] and [band.size for band in plan[13:]] == sizes[13:]
    assert [band.width for band in plan[7:]] == [645, 406, 256, 161, 102, 64, 64, 64]
    assert (
        plan[0].cutoff == 2 and plan[0].cutoff + plan[0].half_width == 8
    )  # half the rate, above the stopband of 2^2.1
    assert plan[12].cutoff == plan[14].cutoff == 512
    torch.testing.assert_close(plan[12].half_width, 512 * (2**0.3 - 1))


def test_rotation_needs_small_kernels_and_radial_filters():
    layers = tiny(rotation=True).layers
    assert all(layer.convolution.weight.shape[2:] == (1, 1) for layer in layers)
    assert [layer.activation.second.ndim for layer in layers] == [2, 2, 1, 1], "critical layers are separable"
    layers = tiny().layers
    assert all(layer.convolution.weight.shape[2:] == (3, 3) and layer.activation.second.ndim == 1 for layer in layers)


def test_features_are_waves_below_the_cutoff_that_a_transform_moves_and_turns():
    torch.manual_seed(0)
    band = bands(64, 14, 10, 64, 64)[0]
    features, w = FourierFeatures(band, 8), torch.randn(1, 8)
    assert features.frequencies.norm(dim=1).max() <= 2 and features.frequencies.shape == (64, 2)
    still = features(w, torch.eye(3))
    assert still.shape == (1, 64, 36, 36) and still.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(still.square().mean().item(), 0.5, atol=0.1, rtol=0)
    moved = features(w, torch.tensor([[1, 0, -3 / 16], [0, 1, 2 / 16], [0, 0, 1]]))  # 3 pixels right, 2 up
    torch.testing.assert_close(moved[..., :-2, 3:], still[..., 2:, :-3], atol=1e-4, rtol=0)
    turned = features(w, torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))  # the right comes from above: clockwise
    torch.testing.assert_close(turned, still.rot90(-1, (2, 3)), atol=1e-4, rtol=0)


def test_features_that_a_transform_lifts_beyond_half_the_rate_are_faded_out():
    features = FourierFeatures(bands(64, 14, 10, 64, 64)[0], 8)
    far = features(torch.zeros(1, 8), torch.diag(torch.tensor([1000.0, 1000.0, 1.0])))
    assert far.abs().max() < 0.5, "all but the slowest waves are gone"


def test_a_style_can_turn_and_move_the_features():
    torch.manual_seed(0)
    features = FourierFeatures(bands(64, 14, 10, 8, 8)[0], 8)
    w = torch.randn(1, 8)
    still = features(w, torch.eye(3))
    with torch.no_grad():
        features.affine.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0]))  # a quarter turn, whatever the length
    torch.testing.assert_close(features(w, torch.eye(3)), still.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    with torch.no_grad():
        features.affine.bias.copy_(torch.tensor([3.0, 0.0, 3 / 16, 0.0]))  # a pixel to the right, whatever the length
    torch.testing.assert_close(features(w, torch.eye(3))[..., 1:], still[..., :-1], atol=1e-4, rtol=0)


def test_modulated_convolutions_have_kernels_of_unit_norm():
    torch.manual_seed(0)
    layer = Modulated(5, 7, 8, kernel=3).eval()
    layer.magnitude.fill_(4.0)
    x, w = torch.randn(2, 5, 6, 6), torch.randn(2, 8)
    for row in range(2):
        kernel = layer.weight * layer.affine(w)[row, :, None, None]
        kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt()
        expected = conv2d(x[row : row + 1] / 2, kernel, padding=1) + layer.bias[:, None, None]
        torch.testing.assert_close(layer(x, w, layer.follow(x))[row : row + 1], expected, atol=1e-5, rtol=1e-4)


def test_magnitudes_are_followed_in_training_with_a_half_life_in_images():
    generator, z = tiny(), torch.randn(8, 8)
    convolutions = [layer.convolution for layer in generator.layers] + [generator.output]
    sizes = []
    for convolution in convolutions:
        convolution.register_forward_pre_hook(lambda m, a: sizes.append(a[0].square().mean().item()))
    generator.eval()(z)
    with torch.no_grad():
        generator.train()(z)  # a discriminator's turn
    assert all(convolution.magnitude == 1 for convolution in convolutions)
    sizes.clear()
    generator.train()(z)
    share = 0.5 ** (8 / HALF_LIFE)
    expected = [share + (1 - share) * size for size in sizes]
    assert [convolution.magnitude.item() for convolution in convolutions] == pytest.approx(expected)


def test_two_processes_together_follow_magnitudes_and_the_mean_style_as_one_does(monkeypatch):
    """Half the batch each, which draws the same images, and then the mean of the buffers."""
    whole, z = tiny(), torch.randn(8, 8)
    processes, images = [tiny(), tiny()], whole(z)
    monkeypatch.setattr(style, "rank_and_world", lambda: (0, 2))
    torch.testing.assert_close(torch.cat([one(part) for one, part in zip(processes, z.split(4), strict=True)]), images)
    for name, expected in whole.named_buffers():
        found = torch.stack([one.get_buffer(name) for one in processes]).mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, msg=name)
    assert whole.style_mean.abs().max() > 1e-5 and whole.output.magnitude != 1


def test_the_input_is_divided_by_the_magnitude_of_the_batches_before():
    generator, z = tiny(), torch.randn(8, 8)
    assert torch.equal(generator.train()(z), tiny().eval()(z))


def test_layers_that_are_computed_again_count_their_images_once():
    once, twice, z = tiny(), tiny(), torch.randn(2, 8)
    recompute(twice, ["layers"])
    for generator in (once, twice):
        images = generator(z)
        generator(5 * z)  # another look, such as a term's, moves the magnitudes in between
        images.square().sum().backward()
    for (name, p), q in zip(once.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    assert once.layers[1].convolution.magnitude == twice.layers[1].convolution.magnitude != 1


@pytest.mark.parametrize("rotation", [False, True])
def test_gradients_reach_every_parameter_and_can_be_taken_twice(rotation):
    generator = tiny(rotation=rotation, label_dim=3)
    w = generator.mapping(torch.randn(2, 8), torch.eye(3)[:2])
    image = generator.synthesis(generator.spread(w))
    (slope,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), w, create_graph=True)
    (image.square().mean() + slope.square().sum()).backward()
    for name, p in generator.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_the_same_latents_draw_the_same_images_in_any_batch():
    generator = tiny().eval()
    z = torch.randn(3, 8)
    images = generator(z)
    assert torch.equal(images, generator(z))
    torch.testing.assert_close(images[1:2], generator(z[1:2]))
    assert (images[0] - images[1]).abs().max() > 0.01


def test_a_checkpoint_brings_back_the_same_images():
    first, z = tiny().eval(), torch.randn(2, 8)
    second = StyleGAN3Generator(16, latent_dim=8, style_dim=8, width=4, max_width=8, layers=4, margin=2).eval()
    assert not torch.equal(first(z), second(z))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(z), second(z))


def test_truncation_leads_to_the_mean_style():
    generator = tiny().eval()
    generator.style_mean.copy_(generator.mapping(torch.randn(100, 8)).mean(0))
    z = torch.randn(2, 8)
    mean, half, whole = (generator.truncated(z, None, psi) for psi in (0.0, 0.5, 1.0))
    torch.testing.assert_close(mean[0], mean[1])
    torch.testing.assert_close(whole, generator(z))
    assert (half - mean).norm() < (whole - mean).norm()


def test_an_identity_transform_changes_nothing_and_images_may_have_their_own():
    generator = tiny().eval()
    styles = generator.spread(generator.mapping(torch.randn(2, 8)))
    images = generator.synthesis(styles)
    torch.testing.assert_close(generator.synthesis(styles, transform=torch.eye(3)), images)
    transforms = torch.eye(3).repeat(2, 1, 1)
    transforms[1, 0, 2] = 0.2
    own = generator.synthesis(styles, transform=transforms)
    torch.testing.assert_close(own[0], images[0])
    assert (own[1] - images[1]).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same(dtype):
    generator = tiny(32).eval()
    z = torch.randn(2, 8)
    with torch.autocast("cpu", dtype):
        images = generator(z)
    assert images.dtype == torch.float32
    assert (images - generator(z)).abs().mean() < 0.03 * generator(z).std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 48}, "power of two from 16 to 1024, got 48"),
        ({"resolution": 2048}, "power of two from 16 to 1024, got 2048"),
        ({"layers": 2}, "layers must be at least 3 and margin at least 0, got 2 and 2"),
        ({"margin": -1}, "got 4 and -1"),
    ],
)
def test_what_can_not_be_made_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_truncation_beyond_its_range_and_wrong_labels_are_named():
    with pytest.raises(ValueError, match="truncation_psi must be from 0"):
        tiny().truncated(torch.randn(1, 8), None, 1.5)
    with pytest.raises(ValueError, match="labels N x 3, got none"):
        tiny(label_dim=3)(torch.randn(1, 8))


def test_signals_keep_their_size_at_every_depth():
    """Once the magnitudes are known, each layer gets inputs of unit size and gives outputs not far from it."""
    generator = tiny(64, layers=14, width=8, max_width=16).eval()
    seen = []
    for layer in generator.layers:
        layer.convolution.register_forward_pre_hook(lambda m, a: (*a[:2], a[0].square().mean()))
        layer.register_forward_hook(lambda m, a, y: seen.append(y[..., 8:-8, 8:-8].std().item()))
    with torch.no_grad():
        generator(torch.randn(4, 8))
    assert len(seen) == 14 and all(0.3 < size < 1.5 and not math.isnan(size) for size in seen)
