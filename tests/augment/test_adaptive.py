"""The 18 transformations: when each happens, how strongly, and that the same images always get the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_avatars.augment.adaptive import (
    COUNTS,
    AdaptiveAugment,
    amplification,
    blitting,
    colouring,
    cut_out,
    movement,
)
from lightning_avatars.seeding import Draws

GROUPS = ("blit", "geometry", "colour", "filters", "corruption", "cutout")
N = 4000


def only(*groups: str, p: float = 1.0) -> AdaptiveAugment:
    return AdaptiveAugment(p, **{group: float(group in groups) for group in GROUPS})


def draws(count: int, images_seen: int = 0) -> Draws:
    return Draws(0, images_seen, count, 0, count, torch.device("cpu"))


def image(n: int, channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def numbers(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(N, count, generator=generator), torch.randn(N, count, generator=generator)


def hit(count: int, *which: int) -> Tensor:
    """Apply these transformations of a group and no other."""
    return (torch.arange(count)[:, None] == torch.tensor(which)).any(1).expand(N, count)


# --- when


@pytest.mark.parametrize("channels", [1, 3])
def test_at_zero_images_keep_every_bit_with_all_groups_on(channels):
    x = image(32, channels)
    assert torch.equal(only(*GROUPS, p=0.0)(x, draws(32), "real"), x)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_without_a_share_does_nothing(group):
    x = image(32)
    alone, others = only(group), only(*(other for other in GROUPS if other != group))
    changed = (alone(x, draws(32), "real") != x).flatten(1).any(1)
    assert changed.float().mean() > 0.8
    assert not torch.equal(others(x, draws(32), "real"), alone(x, draws(32), "real"))
    assert torch.equal(only()(x, draws(32), "real"), x)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_chances_are_p_times_the_shares_and_the_two_rotations_are_one(p):
    module = AdaptiveAugment(p, geometry=0.5)
    blit, geometry, colour, *others = module.chances().split(COUNTS)
    assert blit.tolist() == colour.tolist()[:3] == pytest.approx([p] * 3)
    assert torch.cat(others).tolist() == [0] * 6
    assert geometry[[0, 2, 4]].tolist() == pytest.approx([p / 2] * 3)
    either = 1 - (1 - geometry[1]) * (1 - geometry[3])
    assert either.item() == pytest.approx(p / 2) and geometry[1] == geometry[3]


def test_cutout_has_the_share_of_noise_unless_it_has_its_own():
    for asked, expected in (({"corruption": 0.5}, [0.5, 0.5]), ({"corruption": 0.5, "cutout": 1.0}, [0.5, 1.0])):
        assert AdaptiveAugment(1.0, **asked).chances()[-2:].tolist() == expected


def test_p_counts_only_between_zero_and_one():
    module, x = only(*GROUPS, p=1.0), image(16)
    at_one = module(x, draws(16), "real")
    module.p.fill_(5)
    assert torch.equal(module(x, draws(16), "real"), at_one) and at_one.isfinite().all()
    module.p.fill_(-1)
    assert torch.equal(module(x, draws(16), "real"), x)


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_the_share_of_changed_images_follows_p(p):
    x = image(N, 3, 2)
    changed = (only("colour", p=p)(x, draws(N), "real") != x).flatten(1).any(1).float().mean()
    expected = 1 - (1 - p) ** 4 * (1 - p / 2)  # a luma flip changes half of those that it is applied to
    assert changed.item() == pytest.approx(expected, abs=0.02)


def test_p_is_kept_and_constants_are_not():
    assert list(AdaptiveAugment(0.3).state_dict()) == ["p"]


@pytest.mark.parametrize(("name", "value"), [("p", 1.2), ("p", -0.1), ("blit", 2.0), ("cutout", math.nan)])
def test_probabilities_are_from_zero_to_one(name, value):
    with pytest.raises(ValueError, match=f"{name} of the augmentation is a probability, from 0 to 1, got {value}"):
        AdaptiveAugment(**{name: value})


# --- how strongly


def test_half_of_the_images_are_flipped():
    inverse = blitting(hit(3, 0), numbers(4)[0], 32, 32)
    assert inverse[:, 0, 0].unique().tolist() == [-1, 1]
    assert (inverse[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(inverse[:, 1:], torch.eye(3)[1:].expand(N, 2, 3)) and (inverse[:, 0, 1:] == 0).all()


def test_quarter_turns_are_equally_likely_and_whole():
    inverse = blitting(hit(3, 1), numbers(4)[0], 32, 32)
    kinds, counts = inverse[:, :2, :2].flatten(1).unique(dim=0, return_counts=True)
    assert sorted(kinds.tolist()) == [[-1, 0, 0, -1], [0, -1, 1, 0], [0, 1, -1, 0], [1, 0, 0, 1]]
    assert (counts / N).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_whole_translations_reach_an_eighth_of_the_size():
    inverse = blitting(hit(3, 2), numbers(4)[0], 32, 64)
    x, y = inverse[:, 0, 2], inverse[:, 1, 2]
    assert sorted(x.unique().tolist()) == list(range(-8, 9)) and sorted(y.unique().tolist()) == list(range(-4, 5))
    assert (y == 0).float().mean().item() == pytest.approx(1 / 8, abs=0.02)
    assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.05


@pytest.mark.parametrize(("which", "stretched"), [(0, False), (2, True)])
def test_scales_are_log_normal(which, stretched):
    inverse = movement(hit(5, which), *[n[:, :4] for n in numbers(4)], 32, 32)
    x, y = inverse[:, 0, 0].log2(), inverse[:, 1, 1].log2()
    torch.testing.assert_close(x, -y if stretched else y)
    assert x.mean().item() == pytest.approx(0, abs=0.01) and x.std().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("which", [1, 3])
def test_angles_are_uniform(which):
    inverse = movement(hit(5, which), *[n[:, :4] for n in numbers(4)], 32, 32)
    angle = torch.atan2(inverse[:, 1, 0], inverse[:, 0, 0])
    assert angle.mean().item() == pytest.approx(0, abs=0.1)
    assert angle.std().item() == pytest.approx(2 * math.pi / 12**0.5, abs=0.05)
    torch.testing.assert_close(inverse.det(), torch.ones(N))


def test_translations_are_normal_with_an_eighth_of_the_size():
    inverse = movement(hit(5, 4), *[n[:, :4] for n in numbers(4)], 32, 64)
    assert inverse[:, :2, 2].std(0).tolist() == pytest.approx([8, 4], rel=0.05)


def test_the_composed_matrix_undoes_the_transformations_in_order():
    """G = T R(after) A R(before) S, each as in the paper, and the matrix is its inverse."""
    u, z = (n[:8, :4].double() for n in numbers(4))
    found = movement(hit(5, 0, 1, 2, 3, 4)[:8], u, z, 32, 64)
    for i in range(8):
        s, a = 2 ** (0.2 * z[i, 0]), 2 ** (0.2 * z[i, 1])
        before, after = (2 * math.pi * (u[i, k] - 0.5) for k in (0, 1))

        def turn(angle: Tensor) -> Tensor:
            return torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]]).double()

        shift = torch.tensor([[1, 0, z[i, 2] * 8], [0, 1, z[i, 3] * 4], [0, 0, 1]]).double()
        stretch = torch.diag(torch.tensor([a, 1 / a, 1])).double()
        forward = shift @ turn(after) @ stretch @ turn(before) @ torch.diag(torch.tensor([s, s, 1])).double()
        torch.testing.assert_close(found[i] @ forward, torch.eye(3).double(), atol=1e-6, rtol=0)


def test_colours_have_the_strengths_of_the_paper():
    u, z = numbers(3)
    brightness, contrast, luma, hue, saturation = colouring(hit(5, 0, 1, 2, 3, 4), u, z)
    assert brightness.std().item() == pytest.approx(0.2, rel=0.05)
    assert contrast.log2().std().item() == pytest.approx(0.5, rel=0.05)
    assert (luma < 0).float().mean().item() == pytest.approx(0.5, abs=0.03) and luma.abs().unique().tolist() == [1]
    assert hue.std().item() == pytest.approx(2 * math.pi / 12**0.5, abs=0.05)
    assert saturation.log2().std().item() == pytest.approx(1, rel=0.05)


def test_bands_keep_the_power_of_a_natural_spectrum():
    z = numbers(4)[1]
    share = torch.tensor([10, 1, 1, 1]) / 13
    for band in range(4):
        gains = amplification(hit(4, band), z)
        torch.testing.assert_close((gains.square() * share).sum(1), torch.ones(N))
        ratio = gains[:, band] / gains[:, band - 1]
        torch.testing.assert_close(ratio, z[:, band].exp2(), rtol=1e-4, atol=1e-5)
    assert torch.equal(amplification(hit(4), z), torch.ones(N, 4))


def test_a_cutout_is_half_as_high_and_wide_about_its_centre():
    x = torch.ones(3, 2, 8, 16)
    centre = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    found = cut_out(x, torch.tensor([True, True, False]), centre)
    expected = x.clone()
    expected[0, :, 2:6, 4:12] = 0
    expected[1, :, 6:, :4] = 0
    assert torch.equal(found, expected)


def test_noise_is_half_normal_in_strength():
    x = torch.ones(N, 1, 8, 8)
    sigma = (only("corruption")(x, draws(N), "real") - 1).flatten(1).std(1)
    assert sigma.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.05)
    assert sigma.mean().item() == pytest.approx(0.1 * (2 / math.pi) ** 0.5, rel=0.05)


# --- for whom


def test_processes_and_chunks_see_what_one_batch_would():
    module, x = only(*GROUPS, p=0.7), image(8)
    whole = module(x, draws(8), "real")
    rank = Draws(0, 0, 8, 4, 8, torch.device("cpu"))
    pieces = [
        module(x[:4], Draws(0, 0, 8, 0, 4, torch.device("cpu")), "real"),
        module(x[4:6], rank.chunk(0, 2), "real"),
        module(x[6:], rank.chunk(2, 4), "real"),
    ]
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-6, rtol=0)


def test_streams_and_batches_have_draws_of_their_own():
    module, x = AdaptiveAugment(1.0), image(8)
    first = module(x, draws(8), "real")
    assert torch.equal(module(x, draws(8), "real"), first)
    for other in (module(x, draws(8), "fake"), module(x, draws(8, images_seen=8), "real")):
        assert (other - first).abs().amax((1, 2, 3)).min() > 0.1


def test_images_have_two_derivatives_through_everything():
    module, x = only(*GROUPS, p=0.9), image(2, 3, 3).double().requires_grad_()
    assert gradcheck(lambda x: module(x, draws(2), "real"), x)
    assert gradgradcheck(lambda x: module(x, draws(2), "real").pow(2), x)


def test_a_penalty_reaches_the_weights_through_the_augmentation():
    module, x = AdaptiveAugment(0.8), image(4).requires_grad_()
    w = torch.ones(3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad((module(x, draws(4), "real") * w).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert w.grad.isfinite().all() and (w.grad != 0).all()


def test_mixed_precision_changes_nothing():
    module, x = only(*GROUPS, p=0.8), image(4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(x, draws(4), "real")
    assert torch.equal(mixed, module(x, draws(4), "real"))
