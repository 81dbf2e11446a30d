"""Path lengths and equivariance of a module's generator, with their passport."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lightning_avatars.evaluation.scores import size_name
from lightning_avatars.evaluation.smoothness import check_smoothness, score_smoothness
from lightning_avatars.latents import Uniform
from lightning_avatars.metrics.equivariance import equivariance
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.perceptual_path_length import perceptual_path_length
from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_avatars.networks.stylegan2 import StyleGAN2Generator
from lightning_avatars.networks.stylegan3 import StyleGAN3Generator
from tests.conf.training import game

COUNT, BLOCK = 12, 5
SMALL = {"latent_dim": 4, "style_dim": 4, "width": 4, "max_width": 8}


def squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A distance that needs no weights."""
    return (a - b).double().square().mean((1, 2, 3))


@pytest.fixture
def judge(monkeypatch) -> LPIPS:
    monkeypatch.setattr(LPIPS, "__init__", lambda self: torch.nn.Module.__init__(self))
    network = LPIPS()
    network.name, network.sha256, network.least_side = "lpips_mine", "0" * 64, 16
    network.distances = squares
    return network


def of(generator, resolution=16, **arguments):
    discriminator = DCGANDiscriminator(resolution, width=2)
    return game(generator=generator, discriminator=discriminator, **arguments)


def test_paths_run_between_styles_where_there_are_some(judge):
    module = of(StyleGAN2Generator(16, **SMALL))
    result = score_smoothness(module, [judge], COUNT, BLOCK)
    found = perceptual_path_length(module.sampler, squares, torch.arange(COUNT), "w", batch_size=BLOCK)
    score = result.scores[f"ppl_w_lpips_mine_{size_name(COUNT)}"]
    assert list(result.scores.values()) == [score] and score.extractor == "lpips_mine"
    assert score.value == pytest.approx(found.mean, rel=1e-3) and score.interval[0] < score.value < score.interval[1]
    assert result.passport["extractors"]["lpips_mine"] == {"sha256": judge.sha256}
    assert result.passport["images"] == COUNT and result.passport["weights"] == "average"


def test_they_run_on_the_sphere_of_latents_where_there_are_none(judge):
    result = score_smoothness(of(DCGANGenerator(16, width=2, latent_dim=4)), [judge], COUNT, BLOCK)
    assert list(result.scores) == [f"ppl_z_lpips_mine_{COUNT}"]


def test_pictures_of_stylegan3_are_moved_and_turned_without_any_judge():
    module = of(StyleGAN3Generator(32, layers=4, **SMALL), 32)
    result = score_smoothness(module, [], COUNT, BLOCK)
    latents = module.prior.of_seeds(torch.arange(COUNT), 4)
    expected = equivariance(module.sampler, latents, batch=BLOCK)
    assert {name.removesuffix(f"_{COUNT}"): score.value for name, score in result.scores.items()} == expected


@pytest.mark.parametrize(
    ("made", "judged", "message"),
    [
        (partial(DCGANGenerator, 16, width=2), False, "give --perceptual too, vgg for what papers have"),
        (partial(DCGANGenerator, 16, width=2), True, "DCGANGenerator with the prior Uniform has neither"),
    ],
)
def test_what_can_not_be_measured_is_refused(made, judged, message, judge):
    module = of(made(latent_dim=4), prior=Uniform())
    with pytest.raises(ValueError, match=message):
        score_smoothness(module, [judge] if judged else [], COUNT, BLOCK)
    judge.least_side = 31
    with pytest.raises(ValueError, match=r"lpips_mine needs images of at least 31 pixels a side, and .* draws 16"):
        check_smoothness(of(made(latent_dim=4)), COUNT, [judge])
    with pytest.raises(ValueError, match="at least 10 images on either side, but only 3 are to be drawn from"):
        score_smoothness(module, [judge], 3, BLOCK)
