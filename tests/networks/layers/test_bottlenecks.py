"""Bottlenecks against closed forms, torch.distributions and what they promise."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributions import Normal, kl_divergence

from lightning_avatars.networks.layers.bottlenecks import DiagonalGaussian, Plain, kl_to_standard, normal_like


def features(images=4, channels=6, side=2):
    return torch.randn(images, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_the_divergence_is_torch_distributions():
    mean, log_variance = features().chunk(2, 1)
    expected = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0))
    found = kl_to_standard(mean.double(), log_variance.double())
    torch.testing.assert_close(found, expected.flatten(1).sum(1), rtol=1e-12, atol=0)


def test_a_posterior_that_is_the_prior_has_no_rate_and_no_rounding_makes_one_negative():
    zeros = torch.zeros(2, 3, 1, 1)
    assert torch.equal(kl_to_standard(zeros, zeros), torch.zeros(2))
    assert (kl_to_standard(zeros, torch.full_like(zeros, 1e-6)) >= 0).all()


def test_latents_have_the_posteriors_mean_and_deviation():
    torch.manual_seed(0)
    bottleneck, x = DiagonalGaussian(3), features().expand(4, 6, 2, 2)[:1].repeat(20_000, 1, 1, 1)
    made = bottleneck(x)
    mean, log_variance = x[0].chunk(2)
    torch.testing.assert_close(made.latents.mean(0), mean, rtol=0, atol=0.06)
    torch.testing.assert_close(made.latents.std(0), (log_variance / 2).exp(), rtol=0.03, atol=0)
    assert torch.equal(bottleneck.mean(x[:1])[0], mean)


def test_the_log_ratio_is_that_of_the_densities_and_its_mean_is_minus_the_rate():
    torch.manual_seed(0)
    x = features()[:1].repeat(50_000, 1, 1, 1)
    made = DiagonalGaussian(3)(x)
    mean, log_variance = x.chunk(2, 1)
    prior, posterior = Normal(0.0, 1.0).log_prob(made.latents), Normal(mean, (log_variance / 2).exp())
    expected = (prior - posterior.log_prob(made.latents)).flatten(1).sum(1)
    assert made.log_ratio is not None
    torch.testing.assert_close(made.log_ratio, expected, rtol=1e-4, atol=1e-4)
    error = made.log_ratio.std() / len(x) ** 0.5
    assert abs(made.log_ratio.mean() + made.rates[0][0]) < 4 * error


def test_gradients_reach_means_and_variances_and_stay_finite_at_extremes():
    x = torch.tensor([0.5, 60.0, -60.0, 0.1, 19.0, -29.0]).view(1, 6, 1, 1).requires_grad_()
    made = DiagonalGaussian(3)(x)
    (made.latents.sum() + made.rates[0].sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).all()


def test_a_half_precision_encoder_has_latents_in_float32():
    made = DiagonalGaussian(3)(features().bfloat16())
    assert made.latents.dtype == made.rates[0].dtype == torch.float32


def test_a_plain_bottleneck_learns_where_its_latents_are():
    torch.manual_seed(0)
    bottleneck = Plain(2, momentum=0.1)
    scale, shift = torch.tensor([3.0, 0.5])[:, None, None], torch.tensor([-2.0, 7.0])[:, None, None]
    for _ in range(100):
        x = torch.randn(64, 2, 2, 2) * scale + shift
        made = bottleneck(x)
        assert made.latents is x and not made.rates
    drawn = bottleneck.from_normal(torch.randn(10_000, 2, 1, 1))
    torch.testing.assert_close(drawn.mean(0), shift, rtol=0.05, atol=0.05)
    torch.testing.assert_close(drawn.std(0), scale, rtol=0.05, atol=0.05)
    before = bottleneck.location.clone()
    bottleneck.eval()(features(channels=2))
    assert torch.equal(bottleneck.location, before), "only training moves them"


def test_a_bottleneck_without_channels_is_an_error():
    with pytest.raises(ValueError, match="width, the channels of its latents, must be at least 1, got 0"):
        DiagonalGaussian(0)


def work(rank, port, folder):
    """Draw and learn as one of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    mine = features()[2 * rank : 2 * rank + 2]
    plain = Plain(6)
    plain(mine)
    made = [normal_like(mine, True), normal_like(mine, False), plain.location, plain.deviation]
    torch.save(made, folder / f"{rank}.pt")


def test_two_processes_draw_and_learn_what_one_does(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload(["torch"])
    mp.start_processes(work, (port, tmp_path), 2, start_method="forkserver")
    (drawn, free, *buffers), (other, same, *copies) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    assert torch.equal(torch.cat([drawn, other]), normal_like(features(), True))
    assert torch.equal(free, same), "in evaluation the seed alone decides"
    alone = Plain(6)
    alone(features())
    for buffer, copy, expected in zip(buffers, copies, (alone.location, alone.deviation), strict=True):
        assert torch.equal(buffer, copy)
        torch.testing.assert_close(buffer, expected, rtol=1e-5, atol=1e-7)
