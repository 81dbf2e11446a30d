"""Perceptual path length against closed forms: linear generators and a squared distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_avatars.metrics import perceptual_path_length as module
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.perceptual_path_length import inliers, perceptual_path_length, slerp
from lightning_avatars.networks.base import Generator
from lightning_avatars.networks.style import Mapping, NoiseMode, StyleGenerator
from lightning_avatars.networks.stylegan2 import StyleGAN2Generator
from tests.conf.measuring import shared

SEEDS, STEPS = torch.arange(6), (1e-4, 1e-3)


class Flat(StyleGenerator):
    """Grey images: the first four entries of the first layer's style are its four pixels."""

    def __init__(self, label_dim: int = 0) -> None:
        super().__init__(Mapping(4, 4, label_dim, 1), 4, 4, label_dim, styles=2)
        self.double()

    def synthesis(self, styles: Tensor, noise: NoiseMode = "random") -> Tensor:
        assert noise == "constant"
        return styles[:, 0].reshape(-1, 1, 2, 2)


class Plain(Generator):
    """Grey images of four pixels: the latent itself."""

    def __init__(self) -> None:
        super().__init__(4)
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return z.double().reshape(-1, 1, 2, 2)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """A distance that is one channel's squared difference of images in [-1, 1]."""
    assert a.shape[1] == 3
    return ((a - b) / 127.5).square().sum((1, 2, 3)) / 3


@pytest.fixture
def styles(monkeypatch) -> Flat:
    """A generator in double precision, with a mapping that is as it comes."""
    torch.manual_seed(0)
    generator = Flat()
    monkeypatch.setattr(generator.mapping, "forward", lambda z, labels=None: z.double() * 2)
    return generator


def latents() -> tuple[Tensor, Tensor]:
    return tuple(module.Gaussian().of_seeds(2 * SEEDS + i, 4).double() for i in (0, 1))


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_in_w_a_straight_path_has_its_squared_length(styles, sampling):
    start, stop = latents()
    expected = (2 * (stop - start)).square().sum(1)
    found = perceptual_path_length(styles, squared, SEEDS, "w", sampling, trim=False)
    torch.testing.assert_close(found.lengths, expected, rtol=1e-3, atol=0)
    assert found.mean == pytest.approx(expected.mean().item(), rel=1e-3)


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_in_z_an_arc_has_the_squared_angle_times_the_dimension(sampling):
    start, stop = latents()
    angle = torch.nn.functional.cosine_similarity(start, stop).acos()
    found = perceptual_path_length(Plain(), squared, SEEDS, "z", sampling, epsilon=1e-2, trim=False)
    torch.testing.assert_close(found.lengths, 4 * angle.square(), rtol=1e-3, atol=0)


def test_a_curved_synthesis_tells_the_places_on_the_path_apart(styles):
    straight = styles.synthesis
    styles.synthesis = lambda s, noise: straight(s, noise).square()
    full, end = (perceptual_path_length(styles, squared, SEEDS, sampling=s, trim=False) for s in ("full", "end"))
    start, stop = (2 * z for z in latents())
    torch.testing.assert_close(end.lengths, (2 * start * (stop - start)).square().sum(1), rtol=1e-2, atol=0)
    places = torch.from_numpy(module.uniform_at(0, "path", SEEDS.numpy()))[:, None]
    between = torch.lerp(start, stop, places)
    torch.testing.assert_close(full.lengths, (2 * between * (stop - start)).square().sum(1), rtol=1e-2, atol=0)


def test_slerp_stays_on_the_sphere_and_turns_evenly():
    a, b = torch.randn(5, 7, dtype=torch.double), torch.randn(5, 7, dtype=torch.double)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()
    torch.testing.assert_close(slerp(a, b, torch.zeros(5, 1)).double(), a / a.norm(dim=1, keepdim=True) * math.sqrt(7))
    torch.testing.assert_close(slerp(a, b, torch.ones(5, 1)).double(), b / b.norm(dim=1, keepdim=True) * math.sqrt(7))
    x = slerp(a, b, torch.full((5, 1), 0.3, dtype=torch.double))
    torch.testing.assert_close(x.norm(dim=1), torch.full((5,), math.sqrt(7), dtype=torch.double))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(a, x).acos(), 0.3 * angle)
    assert torch.isfinite(slerp(a, a, torch.full((5, 1), 0.3, dtype=torch.double))).all()


def test_the_shortest_and_the_longest_hundredth_are_left_out():
    lengths = torch.arange(200.0, dtype=torch.double).flip(0)
    kept = inliers(lengths)
    assert kept.min() == 1 and kept.max() == 198 and len(kept) == 198
    assert inliers(torch.ones(3)).tolist() == [1, 1, 1]
    wild = perceptual_path_length(Plain(), lambda a, b: torch.tensor([1.0, 2, 1e9, 3, 0, 2]), SEEDS, "z", epsilon=1)
    assert wild.mean == pytest.approx((1 + 2 + 1e9 + 3 + 0 + 2) / 6), "six paths have no hundredth"


def test_batches_and_processes_change_nothing(styles, monkeypatch):
    whole = perceptual_path_length(styles, squared, SEEDS)
    pieces = perceptual_path_length(styles, squared, SEEDS, batch_size=2)
    torch.testing.assert_close(pieces.lengths, whole.lengths)
    parts = []
    monkeypatch.setattr(module, "add_up", lambda lengths: parts.append(lengths.clone()))
    for rank in range(2):
        monkeypatch.setattr(module, "shares", lambda n, size, r=rank: [slice(i, i + 1) for i in range(r, n, 2)])
        perceptual_path_length(styles, squared, SEEDS)
    torch.testing.assert_close(parts[0] + parts[1], whole.lengths)


def test_a_real_generator_is_measured_in_both_spaces_and_left_as_it_was():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, 3, 3, 6, 5, 4, 8, mapping_layers=2)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    labels = torch.eye(3).repeat(2, 1)
    for space in ("w", "z"):
        found = perceptual_path_length(generator, squared, SEEDS, space, labels=labels)
        assert found.lengths.shape == (6,) and found.lengths.min() > 0
        again = perceptual_path_length(generator, squared, SEEDS, space, labels=labels)
        assert torch.equal(found.lengths, again.lengths)
    assert generator.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_lpips_takes_the_images_as_they_come():
    lpips = LPIPS("vgg", shared("weights/vgg16-features-fp16.safetensors"))
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, 3, 0, 6, 5, 4, 8, mapping_layers=2)
    short, long = (perceptual_path_length(generator, lpips.distances, SEEDS, epsilon=e, trim=False) for e in STEPS)
    torch.testing.assert_close(short.lengths, long.lengths, rtol=0.2, atol=0)  # a second difference, whatever the step


def test_large_images_are_averaged_down():
    image = torch.zeros(1, 1, 512, 512)
    image[:, :, ::2] = 1
    small = module.prepared(image)
    assert small.shape == (1, 3, 256, 256) and (small == 191.25).all()
    assert torch.equal(module.prepared(image[:, :, :256, :256])[:, :, ::2], torch.full((1, 3, 128, 256), 255.0))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"Plain has no space W .* measure in space 'z'"):
        perceptual_path_length(Plain(), squared, SEEDS)
    with pytest.raises(ValueError, match="at least one path"):
        perceptual_path_length(Plain(), squared, SEEDS[:0], "z")
