"""ProGAN: sizes, levels, fading, what is computed, gradients and precision."""

import copy

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from lightning_avatars.ema import Average
from lightning_avatars.networks.layers.stages import stage_widths
from lightning_avatars.networks.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from lightning_avatars.objectives.adversarial import Wasserstein
from lightning_avatars.schedules import Growing
from lightning_avatars.terms.drift import Drift
from lightning_avatars.terms.gradients import GradientPenalty, squared_gradient
from tests.conf.training import fit, game, weights

LEVELS = [0.0, 0.5, 1.0, 1.25, 2.0]


def players(resolution=16, label_dim=0, level=None):
    torch.manual_seed(0)
    generator = ProgressiveGenerator(resolution, 3, label_dim, latent_dim=6, width=4, max_width=8)
    discriminator = ProgressiveDiscriminator(resolution, 3, label_dim, width=4, max_width=8)
    if level is not None:
        generator.level.fill_(level)
        discriminator.level.fill_(level)
    return generator, discriminator


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_at_1024_are_the_papers():
    """Table 2 lists the layers of the whole networks, 23.1 M each: with one layer from and to images."""
    with torch.device("meta"):
        generator = ProgressiveGenerator(1024, 3, 0, latent_dim=512, width=16)
        discriminator = ProgressiveDiscriminator(1024, 3, 0, width=16)
    assert count(generator) == 23_079_115 and count(discriminator) == 23_087_249
    assert count(generator) - count(generator.to_image[:-1]) == 23_071_507
    assert count(discriminator) - count(discriminator.from_image[:-1]) == 23_077_137
    rows = {"first": 4_194_304, "bias": 512, "stages.0": 2_359_808, "stages.4": 1_769_984, "stages.8": 6_944}
    for name, expected in rows.items():  # 4.2M, 2.4M, 1.2M + 590k, 4.6k + 2.3k
        part = generator.get_parameter(name) if name == "bias" else generator.get_submodule(name)
        assert (part.numel() if name == "bias" else count(part)) == expected


def test_widths_are_the_papers_at_1024():
    assert stage_widths(1024, 16, 512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("resolution", [4, 24, 2048, 0])
def test_other_resolutions_are_refused(resolution):
    for network in (ProgressiveGenerator, ProgressiveDiscriminator):
        with pytest.raises(ValueError, match=f"power of two from 8 to 1024, got {resolution}"):
            network(resolution)


@pytest.mark.parametrize("label_dim", [0, 5])
@pytest.mark.parametrize("level", LEVELS)
def test_images_are_always_of_the_full_resolution_and_as_fine_as_the_level(level, label_dim):
    generator, discriminator = players(16, label_dim, level)
    labels = torch.rand(4, label_dim)
    image = generator(torch.randn(4, 6), labels)
    assert image.shape == (4, 3, 16, 16) and discriminator(image, labels).logits[0].shape == (4,)
    times = 2 ** (2 - -int(-level // 1))
    assert torch.equal(image, interpolate(image[:, :, ::times, ::times], scale_factor=times))
    if times > 1:
        finer = interpolate(image[:, :, :: times // 2, :: times // 2], scale_factor=times // 2)
        assert torch.equal(finer, image), "nothing between the level's pixels"
    noise = torch.randn(4, 3, 16 // times, 16 // times, times, times).sub_(0)
    noise = (noise - noise.mean((4, 5), keepdim=True)).permute(0, 1, 2, 4, 3, 5).reshape(4, 3, 16, 16)
    same, other = (discriminator(x, labels).logits[0] for x in (image, image + noise))
    torch.testing.assert_close(same, other, rtol=1e-4, atol=1e-4)


def test_fading_is_linear_in_the_level():
    generator, _ = players()
    z = torch.randn(3, 6)
    images = []
    for level in (1.0, 1.25, 2.0):
        generator.level.fill_(level)
        images.append(generator(z))
    torch.testing.assert_close(images[1], 0.75 * images[0] + 0.25 * images[2])


def test_a_discriminator_that_begins_to_fade_judges_as_it_did():
    _, discriminator = players(level=1.0)
    x = torch.randn(4, 3, 16, 16)
    before = discriminator(x).logits[0]
    discriminator.level.fill_(1.0 + 1e-6)
    torch.testing.assert_close(discriminator(x).logits[0], before, rtol=1e-4, atol=1e-4)
    discriminator.level.fill_(1.7)
    assert (discriminator(x).logits[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("level", LEVELS)
def test_gradients_reach_what_the_level_needs_and_nothing_else(level):
    generator, discriminator = players(level=level)
    discriminator(generator(torch.randn(4, 6))).logits[0].square().sum().backward()
    stage = -int(-level // 1)
    images = {stage, stage - 1} if stage > level else {stage}
    for network, ends in ((generator, "to_image"), (discriminator, "from_image")):
        for name, p in network.named_parameters():
            kind, _, rest = name.partition(".")
            number = int(rest.partition(".")[0]) if kind in ("stages", ends) else 0
            needed = number in images if kind == ends else number <= stage
            assert (p.grad is not None) == needed, name
            assert not needed or p.grad.abs().sum() > 0, name


def test_stages_above_the_level_are_not_computed():
    for network, given in zip(players(level=1.0), (torch.randn(2, 6), torch.randn(2, 3, 16, 16)), strict=True):
        network.stages[2].forward = None
        network(given)
        network.level.fill_(1.1)
        with pytest.raises(TypeError):
            network(given)


def test_without_a_schedule_the_networks_are_whole_and_levels_above_change_nothing():
    generator, discriminator = players()
    assert generator.level == discriminator.level == 2
    z = torch.randn(2, 6)
    whole = generator(z)
    generator.level.fill_(5.5)
    assert torch.equal(generator(z), whole)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_penalty_finds_the_gradient_at_the_levels_own_resolution(level):
    """A whole network of that resolution, with the same weights, is the reference."""
    torch.manual_seed(0)
    small, large = (ProgressiveDiscriminator(size, width=8, max_width=8) for size in (8, 32))
    for network in (small, large):
        network.level.fill_(level)
    for one, other in zip(small.stages, large.stages, strict=False):
        other.load_state_dict(one.state_dict())
    for one, other in zip(small.from_image, large.from_image, strict=False):
        other.load_state_dict(one.state_dict())
    for name in ("dense", "output"):
        getattr(large, name).load_state_dict(getattr(small, name).state_dict())
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    y = avg_pool2d(x.detach(), 4).requires_grad_()
    found, exact = (squared_gradient(network(i).logits, i) for network, i in ((large, x), (small, y)))
    torch.testing.assert_close(found, exact)
    found.sum().backward()
    exact.sum().backward()
    torch.testing.assert_close(large.dense.weight.grad, small.dense.weight.grad)


def test_the_level_goes_with_averages_and_checkpoints():
    generator, _ = players()
    average = Average(generator, 100)
    generator.level.fill_(1.5)
    average.update(generator, 10, 10**6)
    assert average.average.level == 1.5
    assert players()[0].load_state_dict(generator.state_dict()) and generator.state_dict()["level"] == 1.5


def test_pixels_are_normalised_and_the_latents_length_does_not_matter():
    generator, _ = players()
    z = torch.randn(3, 6)
    torch.testing.assert_close(generator(z), generator(3 * z), rtol=1e-4, atol=1e-5)
    seen = []
    generator.stages[2].register_forward_hook(lambda module, given, made: seen.append(made))
    generator(z)
    torch.testing.assert_close(seen[0].square().mean(1), torch.ones(3, 16, 16), rtol=1e-4, atol=1e-4)


def test_labels_matter():
    generator, discriminator = players(label_dim=5)
    z, one, two = torch.randn(4, 6), torch.eye(5)[:1].expand(4, -1), torch.eye(5)[1:2].expand(4, -1)
    image = generator(z, one)
    assert (image - generator(z, two)).abs().max() > 1e-3
    assert (discriminator(image, one).logits[0] - discriminator(image, two).logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("level", [1.5, 2.0])
def test_bfloat16_gives_float32_images_and_logits(level):
    generator, discriminator = players(level=level)
    z = torch.randn(4, 6)
    expected = copy.deepcopy(generator)(z)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z)
        logits = discriminator(image).logits[0]
    assert image.dtype == logits.dtype == torch.float32
    assert (image - expected).abs().mean() < 0.02 * expected.std()


def test_channels_last_changes_nothing():
    generator, discriminator = players(level=1.5)
    z = torch.randn(4, 6)
    expected = discriminator(generator(z)).logits[0]
    for player in (generator, discriminator):
        player.to(memory_format=torch.channels_last)
    torch.testing.assert_close(discriminator(generator(z)).logits[0], expected, rtol=1e-4, atol=1e-5)


def grown(**arguments):
    """A small game that fades 8 x 8 in from the 8th to the 32nd image."""
    generator, discriminator = players(8)
    grow = Growing(kept=8, faded=24)
    return game(
        generator=generator,
        discriminator=discriminator,
        objective=Wasserstein(),
        discriminator_terms={"gradient_penalty": GradientPenalty(), "drift": Drift()},
        scheduled={"generator.level": grow, "discriminator.level": grow},
        **arguments,
    )


def test_players_grow_together_or_not_at_all():
    generator, discriminator = players(8)
    with pytest.raises(ValueError, match=r"level of one player and not 'discriminator.level'.* the same schedule"):
        game(generator=generator, discriminator=discriminator, scheduled={"generator.level": Growing(8, 24)})


def test_a_run_grows_and_a_resumed_one_is_the_same(tmp_path):
    whole, resumed = grown(), grown()
    fit(whole, tmp_path / "whole")
    assert whole.generator.level == whole.discriminator.level == whole.average.average.level == 1
    fit(grown(), tmp_path / "part", images=16)
    fit(resumed, tmp_path / "rest", ckpt_path=tmp_path / "part/checkpoints/images_000000016.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert whole.discriminator.from_image[0].layers[0].weight.grad is None, "the last batch needed 8 x 8 alone"


def test_chunks_that_hold_whole_groups_make_the_same_run(tmp_path):
    whole, chunks = grown(), grown(micro_batch=4)
    fit(whole, tmp_path / "whole")
    fit(chunks, tmp_path / "chunks")
    torch.testing.assert_close(weights(chunks), weights(whole), rtol=1e-4, atol=1e-5)
