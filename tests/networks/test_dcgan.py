"""DCGAN: shapes, gradients, labels, norms, double backward, layouts and precision."""

import copy
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.nn.functional import one_hot

from lightning_avatars.networks.base import Discriminator
from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator, stage_widths
from lightning_avatars.networks.layers.labels import ClassHead, CodeHead
from lightning_avatars.networks.layers.normalization import BatchNorm2d, LayerNorm2d

NORMS = [BatchNorm2d, LayerNorm2d, nn.InstanceNorm2d, nn.Identity]


def players(resolution=16, label_dim=0, normalization=BatchNorm2d):
    torch.manual_seed(0)
    generator = DCGANGenerator(resolution, 3, label_dim, latent_dim=6, width=4, max_width=16)
    discriminator = DCGANDiscriminator(resolution, 3, label_dim, width=4, max_width=16, normalization=normalization)
    return generator, discriminator


@pytest.mark.parametrize("label_dim", [0, 5])
@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
def test_shapes_and_range(resolution, label_dim):
    generator, discriminator = players(resolution, label_dim)
    labels = torch.rand(2, label_dim)
    image = generator(torch.randn(2, 6), labels)
    assert image.shape == (2, 3, resolution, resolution)
    assert image.abs().max() <= 1
    assert discriminator(image, labels).logits[0].shape == (2,)


def test_widths_double_up_to_a_limit():
    assert stage_widths(64, 128, 1024) == [1024, 512, 256, 128]
    assert stage_widths(256, 64, 512) == [512, 512, 512, 256, 128, 64]


@pytest.mark.parametrize("resolution", [8, 48, 512, 0, -16])
def test_wrong_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"power of two from 16 to 256, got {resolution}"):
        DCGANGenerator(resolution)


def test_weights_start_small():
    generator, _ = players(64)
    generator = DCGANGenerator(64, label_dim=3)
    assert generator.output.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.first.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.stages[0].weight.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("normalization", NORMS)
@pytest.mark.parametrize("label_dim", [0, 5])
def test_gradients_reach_every_parameter(label_dim, normalization):
    generator, discriminator = players(32, label_dim, normalization)
    labels = torch.rand(4, label_dim)
    discriminator(generator(torch.randn(4, 6), labels), labels).logits[0].square().sum().backward()
    for player in (generator, discriminator):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in player.parameters())


def test_same_seed_same_players_and_state_round_trip():
    z = torch.randn(3, 6)
    (generator, _), (other, _) = players(), players()
    image = generator(z)
    assert torch.equal(image, other(z))
    torch.manual_seed(1)
    fresh = DCGANGenerator(16, latent_dim=6, width=4, max_width=16)
    fresh.load_state_dict(generator.state_dict())
    assert torch.equal(fresh.eval()(z), generator.eval()(z))


def test_labels_change_images_and_logits():
    generator, discriminator = (player.eval() for player in players(label_dim=5))
    a, b = one_hot(torch.tensor([0, 1]), 5).split(1)
    z, x = torch.randn(1, 6), torch.randn(1, 3, 16, 16)
    assert not torch.allclose(generator(z, a), generator(z, b), atol=1e-6)
    assert not torch.allclose(discriminator(x, a).logits[0], discriminator(x, b).logits[0])
    assert torch.allclose(generator(z, a), generator(z, 3 * a))  # only the direction counts
    assert generator(z, 0 * a).isfinite().all()


def test_missing_labels_are_named():
    generator, discriminator = players(label_dim=5)
    with pytest.raises(ValueError, match="labels N x 5, got none"):
        generator(torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"labels N x 5, got a tensor of shape \(2, 4\)"):
        discriminator(torch.randn(2, 3, 16, 16), torch.rand(2, 4))


@pytest.mark.parametrize("normalization", NORMS)
def test_discriminator_is_twice_differentiable(normalization):
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator(16, 1, 2, width=2, normalization=normalization).double()
    for p in discriminator.parameters():
        p.data.mul_(5)  # away from the tiny start, where differences drown
    x, labels = torch.randn(2, 1, 16, 16, dtype=torch.double, requires_grad=True), torch.rand(2, 2)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x, labels).logits[0], x, fast_mode=True)


@pytest.mark.parametrize("normalization", [LayerNorm2d, nn.InstanceNorm2d, nn.Identity])
def test_an_image_without_batch_norm_is_judged_alone(normalization):
    _, discriminator = players(normalization=normalization)
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(discriminator(x).logits[0][:1], discriminator(x[:1]).logits[0], atol=1e-5)


def test_channels_last_changes_nothing():
    generator, discriminator = players(32)
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    image = generator(z)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(discriminator(image).logits[0], expected, atol=1e-5)


def test_bfloat16_gives_float32_images_and_logits():
    generator, discriminator = players(32, label_dim=5)
    z, labels = torch.randn(8, 6), torch.rand(8, 5)
    expected = copy.deepcopy(generator)(z, labels)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z, labels)
        logits = discriminator(image, labels).logits[0]
    assert image.dtype == logits.dtype == torch.float32
    assert torch.allclose(image, expected, atol=0.05)
    assert all(buffer.dtype != torch.bfloat16 for buffer in generator.buffers())


@pytest.mark.parametrize(
    ("path", "kind"),
    [("torch.nn.Identity", nn.Identity), ("lightning_avatars.networks.layers.normalization.LayerNorm2d", LayerNorm2d)],
)
def test_normalization_is_chosen_from_the_command_line(path, kind):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Discriminator, "d")
    arguments = ["--d=lightning_avatars.networks.dcgan.DCGANDiscriminator", f"--d.normalization={path}"]
    discriminator = parser.instantiate_classes(parser.parse_args(arguments)).d
    assert isinstance(discriminator.stages[3], kind)
    assert discriminator(torch.randn(2, 3, 64, 64)).logits[0].shape == (2,)


@pytest.mark.parametrize(("head", "name"), [(ClassHead, "class"), (partial(CodeHead, code_dim=5), "code")])
def test_heads_read_the_body_that_judges(head, name):
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator(16, 3, 5, width=4, head=head)
    x, labels = torch.randn(4, 3, 16, 16), torch.eye(5)[:4]
    verdict = discriminator(x, labels)
    assert discriminator.heads == {name: 5} and verdict.heads[name].shape == (4, 5)
    (verdict.heads[name].square().sum() + verdict.logits[0].square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())
    plain = DCGANDiscriminator(16, width=4)
    assert plain.heads == {} and plain(x).heads == {}
