"""The hierarchical VAE: its rates, its way down from numbers, and what it can't be built for."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lightning_avatars.networks.ladder import Drawn, LadderAutoencoder, divergence


def network(resolution: int = 8, nudge: float = 0.05, **arguments) -> LadderAutoencoder:
    """Make a small network; nudged, its last layers that start at zero have something to say."""
    torch.manual_seed(0)
    made = LadderAutoencoder(
        resolution, **({"width": 8, "max_width": 16, "finest": 4, "latent_channels": 2} | arguments)
    )
    if nudge:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=nudge)
    return made


def images(resolution: int = 8, channels: int = 3, count: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, resolution, resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1


def latents_of(drawn: list[Drawn]) -> torch.Tensor:
    return torch.cat([level.latents for level in drawn], 1)


def test_the_divergence_is_torchs_of_diagonal_normal_distributions():
    numbers = torch.randn(4, 5, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_deviation, prior_mean, prior_log_deviation = numbers
    expected = kl_divergence(Normal(mean, log_deviation.exp()), Normal(prior_mean, prior_log_deviation.exp()))
    torch.testing.assert_close(
        divergence(mean, log_deviation, prior_mean, prior_log_deviation), expected.flatten(1).sum(1)
    )
    assert (divergence(mean, log_deviation, mean, log_deviation) == 0).all()


def test_rates_are_the_mean_log_ratios_of_what_is_drawn():
    made, x = network(blocks=2, nudge=0.2), images(count=1).expand(4000, -1, -1, -1)
    with torch.no_grad():
        noise = torch.randn(4000, made.latent_dim, generator=torch.Generator().manual_seed(3))
        output, drawn = made.infer(x, None, noise)
    assert output.shape == (4000, 3, 8, 8) and len(drawn) == 4
    for level in drawn:
        assert level.rate.mean() > 0.01, "or nothing is tested"
        error = 4 * level.log_ratio.std() / 4000**0.5
        assert abs(level.log_ratio.mean() + level.rate.mean()) < error


def test_the_log_ratio_is_that_of_densities():
    made, x = (
        network(blocks=1, finest=1, nudge=0.2),
        images(count=1),
    )  # one level, whose posterior is the same for any draw
    with torch.no_grad():
        noise = torch.randn(4000, made.latent_dim, generator=torch.Generator().manual_seed(3))
        (drawn,) = made.infer(x.expand(4000, -1, -1, -1), None, noise)[1]
    eps = drawn.latents.double()
    posterior = Normal(eps.mean(0), eps.std(0))
    expected = (Normal(0.0, 1.0).log_prob(eps) - posterior.log_prob(eps)).sum(1)
    torch.testing.assert_close(drawn.log_ratio.double(), expected, rtol=0.1, atol=0.3)
    torch.testing.assert_close(
        drawn.rate[0].double(), kl_divergence(posterior, Normal(0.0, 1.0)).sum(), rtol=0.05, atol=0.02
    )


@pytest.mark.parametrize("label_dim", [0, 3])
def test_decoded_codes_are_the_reconstruction_without_noise(label_dim):
    made, x = network(blocks=2, label_dim=label_dim), images()
    labels = torch.eye(3) if label_dim else None
    with torch.no_grad():
        output, drawn = made.infer(x, labels, torch.zeros(3, made.latent_dim))
        latents = latents_of(drawn)
        found = made.encode(x, labels)
        torch.testing.assert_close(found, latents)
        torch.testing.assert_close(made.decode(found, labels), output, rtol=1e-4, atol=1e-5)


def test_a_draw_and_the_numbers_it_stands_for_decode_alike():
    made, x = network(), images()
    with torch.no_grad():
        noise = torch.randn(3, made.latent_dim, generator=torch.Generator().manual_seed(2))
        output, drawn = made.infer(x, None, noise)
        torch.testing.assert_close(made.decode(latents_of(drawn)), output, rtol=1e-4, atol=1e-5)
        torch.manual_seed(4)
        first = made(x).output
        assert not torch.equal(first, made(x).output)
        torch.manual_seed(4)
        assert torch.equal(first, made(x).output)


def test_the_prior_starts_as_standard_normal_and_latents_are_its_numbers():
    made = network(nudge=0.0)
    seen = []
    for level in made.levels:
        level.latent.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    noise = torch.randn(5, made.latent_dim)
    with torch.no_grad():
        drawn = made.decode(made.from_normal(noise))
        assert drawn.shape == (5, 3, 8, 8) and (drawn - drawn[:1])[1:].abs().amax((1, 2, 3)).min() > 0
        torch.testing.assert_close(torch.cat(seen, 1), noise)
        rates = made(images()).rates
    assert all(rate.max() < 0.2 * level.size for rate, level in zip(rates, made.levels, strict=True))


def test_a_draw_from_the_prior_is_the_same_in_any_batch():
    made, noise = network(), torch.randn(4, network().latent_dim)
    with torch.no_grad():
        torch.testing.assert_close(made.decode(noise[2:3]), made.decode(noise)[2:3], rtol=1e-4, atol=1e-5)


def test_levels_lie_side_by_side_the_coarsest_first():
    made = network(resolution=16, finest=8, blocks=2, latent_channels=3)
    assert [level.shape for level in made.levels] == [(12, 1, 1)] * 2 + [(6, 4, 4)] * 2 + [(3, 8, 8)] * 2
    assert made.latent_dim == 2 * (12 + 6 * 16 + 3 * 64)
    latents = torch.arange(float(made.latent_dim))[None]
    pieces = made.split(latents)
    assert torch.equal(torch.cat([piece.flatten(1) for piece in pieces], 1), latents) and pieces[0][0, 1, 0, 0] == 1


@pytest.mark.parametrize("label_dim", [0, 3])
def test_a_gradient_reaches_every_parameter(label_dim):
    made = network(blocks=2, label_dim=label_dim)
    output, rates, losses, codes, _ = made(images(), torch.eye(3) if label_dim else None)
    (output.square().sum() + sum(rate.sum() for rate in rates)).backward()
    silent = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == [] and not losses and codes is None


@pytest.mark.parametrize(("resolution", "channels"), [(32, 1), (64, 3), (128, 3)])
def test_outputs_start_small_and_rates_finite_at_every_resolution(resolution, channels):
    made = network(resolution, channels=channels, nudge=0.0, finest=16, parameters_per_channel=2)
    with torch.no_grad():
        output, rates, *_ = made(images(resolution, channels, count=1))
    assert output.shape == (1, 2 * channels, resolution, resolution)
    assert 0.05 < output.std() < 3 and len(rates) == 4 and all(rate.isfinite().all() for rate in rates)


def test_wild_features_make_no_infinite_rates():
    made = network()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
        rates = made(images() * 10).rates
    assert all(rate.isfinite().all() and (rate >= 0).all() for rate in rates)


def test_labels_change_what_is_made_and_must_be_there():
    made = network(label_dim=3)
    noise = torch.zeros(3, made.latent_dim)
    with torch.no_grad():
        drawn = made.decode(noise, torch.eye(3))
        assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="label_dim=3: give it labels N x 3, got none"):
        made.decode(noise)


def test_it_learns_to_keep_colours():
    made, errors = network(nudge=0.0), []
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        x = (torch.rand(16, 3, 1, 1, generator=generator) * 2 - 1).expand(-1, -1, 8, 8)
        output, rates, *_ = made(x)
        error = (output - x).square().mean()
        optimizer.zero_grad()
        (error * 9600 + torch.stack(rates).sum(0).mean()).backward()  # a deviation of 0.1
        optimizer.step()
        errors.append(error.detach())
    assert torch.stack(errors[-10:]).mean() < 0.2 < 1 / 3, "the variance of the colours"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 24}, "resolution must be a power of two from 8 to 256, got 24: set data.resolution"),
        ({"resolution": 512}, "resolution must be a power of two from 8 to 256, got 512"),
        ({"finest": 16}, "finest is 16, but latents at resolution 8 are at 1, 4, 8: choose one of these"),
        ({"finest": 2}, "finest is 2, but"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"latent_channels": 0}, "latent_channels must be at least 1, got 0"),
    ],
)
def test_what_cant_be_built_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**({"resolution": 8} | arguments))


def test_latents_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"this network's latents are N x 36, got \(1, 5\)"):
        network().decode(torch.zeros(1, 5))
