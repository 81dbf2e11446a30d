"""Draws are functions of what they belong to: slices, chunks and positions change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_avatars import seeding
from lightning_avatars.seeding import Draws, SeedNoise, derive, reseed, seeded, uniform_at

CPU = torch.device("cpu")


def whole(seed: int = 3, images_seen: int = 480) -> Draws:
    return Draws(seed, images_seen, 12, 0, 12, CPU)


def test_derived_seeds_never_change():
    """Samples and resumed runs of old checkpoints depend on these very numbers."""
    assert derive(0, "latent", 0) == 5462355233830263475
    assert derive(1, "sample") == 2447485877387345490
    assert derive(7, "a", 1, 2) == 50239597389773955


def test_derived_seeds_fit_63_bits_and_differ():
    seeds = {derive(s, stream, c) for s in range(20) for stream in ("a", "b", "ab") for c in range(20)}
    assert len(seeds) == 20 * 3 * 20
    assert all(0 <= s < 1 << 63 for s in seeds)
    assert max(seeds) > 1 << 62


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_slices_of_ranks_are_the_global_draw(world):
    size = 12 // world
    ranks = [Draws(3, 480, 12, r * size, (r + 1) * size, CPU) for r in range(world)]
    for draw in (lambda d: d.normal("latent", 2, 3), lambda d: d.uniform("mix", 1, 1, 1), lambda d: d.uniform("t")):
        assert torch.equal(torch.cat([draw(r) for r in ranks]), draw(whole()))


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_chunks_of_a_slice_are_its_rows(size):
    rank = Draws(3, 480, 24, 12, 24, CPU)
    chunks = [rank.chunk(first, first + size) for first in range(0, len(rank), size)]
    assert sum(len(c) for c in chunks) == len(rank) == 12
    assert torch.equal(torch.cat([c.normal("latent", 4) for c in chunks]), rank.normal("latent", 4))
    both = Draws(3, 480, 24, 0, 24, CPU).normal("latent", 4)
    assert torch.equal(chunks[0].chunk(0, 1).normal("latent", 4), both[12:13])


def test_draws_repeat_but_differ_by_stream_seed_and_images_seen():
    first = whole().normal("latent", 8)
    assert torch.equal(whole().normal("latent", 8), first)
    others = [
        whole().normal("labels", 8),
        whole(seed=4).normal("latent", 8),
        whole(images_seen=492).normal("latent", 8),
    ]
    for other in others:
        assert not (other == first).any()
    assert not torch.equal(others[0], others[1]) and not torch.equal(others[1], others[2])


def test_draws_ignore_and_leave_the_global_generator():
    torch.manual_seed(1)
    first, state = whole().uniform("t", 4), torch.get_rng_state()
    whole().normal("latent", 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(whole().uniform("t", 4), first)


def test_draws_have_the_right_moments_and_range():
    draws = Draws(0, 0, 4000, 0, 4000, CPU)
    normal, uniform = draws.normal("n", 10), draws.uniform("u", 10)
    assert normal.mean().abs() < 0.02 and (normal.std() - 1).abs() < 0.02
    assert uniform.min() >= 0 and uniform.max() < 1
    assert (uniform.mean() - 0.5).abs() < 0.01 and (uniform.var() - 1 / 12).abs() < 0.005


def test_take_passes_the_size_of_the_global_batch():
    sizes = []

    def make(total, generator):
        sizes.append(total)
        return torch.randint(5, (total, 1), generator=generator)

    assert Draws(0, 0, 12, 4, 6, CPU).take("labels", make).shape == (2, 1)
    assert sizes == [12]


def test_uniform_at_is_splitmix64(monkeypatch):
    monkeypatch.setattr(seeding, "derive", lambda seed, stream: 1234567)
    published = [  # the first outputs of SplitMix64 with state 1234567
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    ]  # fmt: skip
    assert uniform_at(0, "", np.arange(1, 6)).tolist() == [(x >> 11) / 2**53 for x in published]


def test_uniform_at_is_the_same_one_by_one_and_in_any_order():
    positions = np.array([7, 0, 123_456_789_012, 7, 1])
    together = uniform_at(5, "flip", positions)
    assert together.tolist() == [uniform_at(5, "flip", np.array([p]))[0] for p in positions]
    assert together[0] == together[3] and len(set(together)) == 4
    assert not (uniform_at(6, "flip", positions) == together).any()
    assert not (uniform_at(5, "order", positions) == together).any()


def test_uniform_at_is_uniform_and_neighbours_are_independent():
    x = uniform_at(0, "flip", np.arange(1 << 16))
    assert x.min() >= 0 and x.max() < 1
    counts = np.bincount((x * 256).astype(int), minlength=256)
    chi_squared = ((counts - 256) ** 2 / 256).sum()  # 255 degrees of freedom: mean 255, deviation 22.6
    assert 165 < chi_squared < 345
    pairs = np.bincount((x[:-1] * 16).astype(int) * 16 + (x[1:] * 16).astype(int), minlength=256)
    assert 165 < ((pairs - 65535 / 256) ** 2 / (65535 / 256)).sum() < 345
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.02


def test_seeded_repeats_and_restores_the_generator():
    torch.manual_seed(9)
    state = torch.get_rng_state()
    inside = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU):
            inside.append(torch.randn(4))
    assert torch.equal(inside[0], inside[1]) and not torch.equal(inside[0], inside[2])
    with pytest.raises(RuntimeError, match="in between"), seeded(1, CPU):
        torch.randn(4)
        raise RuntimeError("in between")
    assert torch.equal(torch.get_rng_state(), state)


def test_reseed_depends_on_seed_rank_and_images_seen():
    def first(*arguments):
        reseed(*arguments, CPU)
        return torch.rand(1).item()

    with torch.random.fork_rng([]):
        assert first(0, 1, 64) == first(0, 1, 64)
        assert len({first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1), first(0, 1, 1)}) == 5


def test_numbers_of_seeds_are_the_same_in_any_order():
    noise, other = (SeedNoise(torch.tensor(seeds), "test", CPU) for seeds in ([5, 9], [9, 7]))
    assert torch.equal(noise.normal("", 4)[1], other.normal("", 4)[0])
    assert torch.equal(noise.uniform("", 2, 3)[1], other.uniform("", 2, 3)[0])
