import math

import pytest
import torch
import yaml

from lightning_avatars import shipped
from lightning_avatars.metrics.equivariance import decibels, equivariance, moved_error, shift, turn, turned_error
from lightning_avatars.networks.stylegan3 import Modulated, StyleGAN3Generator


def random_generator(rotation: bool = False, margin: int = 10, resolution: int = 64, **arguments) -> StyleGAN3Generator:
    """A narrow network whose running magnitudes are what its random weights make them."""
    torch.manual_seed(0)
    arguments = {"latent_dim": 16, "style_dim": 16, "width": 8, "max_width": 16} | arguments
    generator = StyleGAN3Generator(resolution, margin=margin, rotation=rotation, **arguments).eval()

    def measure(layer: Modulated, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (*inputs[:2], layer.magnitude.copy_(inputs[0].square().mean()))

    handles = [
        layer.register_forward_pre_hook(measure) for layer in generator.modules() if isinstance(layer, Modulated)
    ]
    with torch.no_grad():
        assert 0.1 < generator(torch.randn(4, 16, generator=torch.Generator().manual_seed(1))).std() < 1
    for handle in handles:
        handle.remove()
    return generator


LATENTS = torch.randn(2, 16, generator=torch.Generator().manual_seed(2))


def test_t_follows_translation_and_not_rotation():
    """72, 73 and 16 dB with the paper's 14 layers and margins of 10; ``eq_t`` is 60 dB with margins of 8, 44 of 6."""
    scores = equivariance(random_generator(), LATENTS)
    assert list(scores) == ["eq_t", "eq_t_frac", "eq_r"]
    assert scores["eq_t"] > 55 and scores["eq_t_frac"] > 55 and scores["eq_r"] < 25


def test_r_follows_translation_and_rotation():
    """73, 72 and 68 dB with four pictures."""
    scores = equivariance(random_generator(rotation=True), LATENTS)
    assert min(scores.values()) > 55


@pytest.mark.parametrize(("name", "kept"), [("stylegan3", ["eq_t", "eq_t_frac"]), ("stylegan3_r", ["eq_t", "eq_r"])])
def test_the_shipped_networks_follow_to_more_than_40_db(name, kept):
    model = yaml.safe_load(shipped.find(name, "model").read_text())
    arguments = model["init_args"]["generator"]["init_args"]
    scores = equivariance(random_generator(resolution=32, **arguments), LATENTS)
    assert min(scores[score] for score in kept) > 40


def test_without_margins_the_edges_are_felt():
    scores = equivariance(random_generator(margin=0, layers=8, resolution=32), LATENTS)
    assert scores["eq_t"] < 40


def test_scores_do_not_depend_on_the_batch_nor_change_the_generators_mode():
    generator = random_generator(resolution=32, layers=4).train()
    magnitudes = [layer.convolution.magnitude.clone() for layer in generator.layers]
    whole, single = equivariance(generator, LATENTS), equivariance(generator, LATENTS, batch=1)
    assert whole == pytest.approx(single, abs=0.1) and generator.training
    assert magnitudes == [layer.convolution.magnitude for layer in generator.layers]
    assert equivariance(generator, LATENTS, seed=1)["eq_t_frac"] != whole["eq_t_frac"]


def test_pictures_that_would_leave_nothing_to_compare_are_refused():
    with pytest.raises(ValueError, match="32 x 32 or more, got 2 latents and pictures of 16 x 16"):
        equivariance(random_generator(resolution=16, layers=4), LATENTS)
    with pytest.raises(ValueError, match="got 0 latents"):
        equivariance(random_generator(resolution=32, layers=4), LATENTS[:0])


def test_the_callers_autocast_is_left_out():
    generator = random_generator(resolution=32, layers=4)
    expected = equivariance(generator, LATENTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert equivariance(generator, LATENTS) == expected


def test_a_constant_error_of_a_hundredth_of_the_span_is_40_decibels():
    assert decibels(torch.full((3, 5), 0.02).square()) == pytest.approx(40)
    assert decibels(torch.zeros(3)) == math.inf


def waves(across: float, down: float, size: int = 40) -> torch.Tensor:
    """Two waves of four and seven pixels or so, seen from a point ``across`` and ``down`` of the middle."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x, y = at - across, (at - down)[:, None]
    return (torch.cos(2 * math.pi * (0.13 * x + 0.08 * y) + 1) + torch.cos(2 * math.pi * (0.2 * y - 0.1 * x)))[None] / 2


def test_whole_pixels_only_change_places():
    image = torch.randn(1, 8, 8, dtype=torch.float64)
    matrix, known = shift(8, 3)
    torch.testing.assert_close((image @ matrix.T)[..., 3:], image[..., :-3])
    assert known.tolist() == [False] * 3 + [True] * 5
    there = image.roll((-2, 3), (1, 2))
    error = moved_error(image, there, [3.0, -2.0])
    assert error.numel() == 5 * 6 and error.max() < 1e-20


def test_fractions_of_a_pixel_are_moved_by_a_sinc():
    still, there = waves(0, 0), waves(2.3, -0.6)
    error = moved_error(still, there, [2.3, -0.6])
    assert error.numel() == 21**2 and decibels(error) > 60
    assert decibels(moved_error(still, there, [2.3, 0.6])) < 20


def test_pictures_are_turned_clockwise():
    image = waves(3, 1)
    turned, known = turn(image, math.pi / 2)
    kept, _ = turn(image, 0.0)
    torch.testing.assert_close(turned[:, known], kept.rot90(-1, (1, 2))[:, known], atol=1e-6, rtol=0)
    assert known.sum() == 22**2 or known.sum() == 21**2


@pytest.mark.parametrize("degrees", [30.0, -77.0])
def test_any_angle_is_turned_alike(degrees):
    angle = math.radians(degrees)
    at = torch.arange(48, dtype=torch.float64) - 23.5
    x = math.cos(angle) * at + math.sin(angle) * at[:, None]  # where points come from
    y = -math.sin(angle) * at + math.cos(angle) * at[:, None]
    make = lambda x, y: (torch.cos(0.7 * x + 0.4 * y) + torch.sin(0.9 * y - 0.2))[None] / 2  # noqa: E731
    error = turned_error(make(at, at[:, None]), make(x, y), angle)
    assert error.numel() > 300 and decibels(error) > 55
