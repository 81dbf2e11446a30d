"""Codebooks follow what they stand for, gradients go past them, and two processes hold what one would."""

from __future__ import annotations

import itertools
import math
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from lightning_avatars.networks.layers.quantizers import (
    SMOOTHING,
    FiniteScalarQuantizer,
    VectorQuantizer,
    draw_places,
)
from lightning_avatars.recompute import recompute


def features(batch: int, seed: int = 0, width: int = 4, side: int = 3, centres: int = 6) -> torch.Tensor:
    """Features about a few centres, N D h w."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(centres, width, generator=torch.Generator().manual_seed(99)) * 3
    chosen = torch.randint(centres, (batch, side, side), generator=generator)
    x = places[chosen] + 0.3 * torch.randn(batch, side, side, width, generator=generator)
    return x.permute(0, 3, 1, 2).contiguous()


def quantizer(**options) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(**({"codebook": 8, "width": 4} | options))


@pytest.mark.parametrize("normalized", [False, True])
def test_a_vector_becomes_its_nearest_word_and_the_gradient_goes_straight_through(normalized):
    layer = quantizer(normalized=normalized, commitment=0.0).eval()
    x = features(2).requires_grad_()
    found = layer(x)
    vectors = x.permute(0, 2, 3, 1)
    vectors = normalize(vectors, dim=-1) if normalized else vectors
    expected = torch.cdist(vectors.detach().reshape(-1, 4), layer.codewords).argmin(1).view(2, 3, 3)
    assert torch.equal(found.codes, expected) and torch.equal(layer.codes(x), expected)
    torch.testing.assert_close(found.latents, layer.codewords[expected].permute(0, 3, 1, 2))
    torch.testing.assert_close(layer.mean(x), layer.embed(found.codes))
    weight = torch.randn(2, 4, 3, 3)
    (gradient,) = torch.autograd.grad((found.latents * weight).sum(), x, retain_graph=True)
    (through,) = torch.autograd.grad((vectors.permute(0, 3, 1, 2) * weight).sum(), x)
    torch.testing.assert_close(gradient, through)
    assert normalized or torch.equal(gradient, weight)


def test_the_commitment_pulls_features_to_their_words_and_nothing_else():
    layer = quantizer(commitment=0.25).eval()
    x = features(2).requires_grad_()
    found = layer(x)
    loss = found.losses["commitment"]
    words = layer.embed(found.codes)
    assert loss.item() == pytest.approx(0.25 * (x - words).square().mean().item())
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, 0.25 * 2 * (x - words).detach() / x.numel())


def test_every_code_costs_the_logarithm_of_the_codebook():
    for layer in (quantizer(), FiniteScalarQuantizer((3, 4))):
        x = features(2, width=layer.width)
        torch.testing.assert_close(layer(x).rates[0], torch.full((2,), 9 * math.log(layer.codebook)))


@pytest.mark.parametrize("normalized", [False, True])
def test_the_codebook_moves_as_a_slow_loop_says(normalized):
    layer = quantizer(decay=0.9, patience=0, normalized=normalized)
    words, counts, sums = layer.codewords.clone(), torch.ones(8), layer.codewords.clone()
    for step in range(5):
        x = features(3, seed=step)
        layer(x)
        vectors = x.permute(0, 2, 3, 1).reshape(-1, 4)
        vectors = normalize(vectors, dim=1) if normalized else vectors
        owners = [min(range(8), key=lambda i, v=v: float((v - words[i]).norm())) for v in vectors]
        for i in range(8):
            mine = [v for v, owner in zip(vectors, owners, strict=True) if owner == i]
            counts[i] = 0.9 * counts[i] + 0.1 * len(mine)
            sums[i] = 0.9 * sums[i] + 0.1 * sum(mine, torch.zeros(4))
        total = counts.sum()
        for i in range(8):
            words[i] = sums[i] / ((counts[i] + SMOOTHING) / (total + 8 * SMOOTHING) * total)
        words = normalize(words, dim=1) if normalized else words
        torch.testing.assert_close(layer.codewords, words, rtol=1e-5, atol=1e-5)


def test_only_training_moves_a_codebook():
    for layer in (quantizer(), FiniteScalarQuantizer((3, 4))):
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        layer.eval()(features(2, width=layer.width))
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        layer.train()(features(2, width=layer.width))
        assert not all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_the_first_batch_makes_all_unused_words_outputs_of_the_encoder():
    layer = quantizer(codebook=16)
    layer.codewords.add_(1000)  # so that a single one is nearest to all
    layer.sums.add_(1000)
    x = features(8)
    used = layer(x).codes.unique()
    assert len(used) == 1
    vectors = x.permute(0, 2, 3, 1).reshape(-1, 4)
    anew = [i for i in range(16) if i != int(used)]
    # Laplace smoothing scales a word by 1 + 1e-5 / its count
    torch.testing.assert_close(
        torch.cdist(layer.codewords[anew], vectors).min(1).values, torch.zeros(15), rtol=0, atol=5e-3
    )
    assert len(layer.codewords[anew].unique(dim=0)) == 15
    for _ in range(3):
        layer(x)
    assert float(layer.alive()) > 0.9


def test_a_word_starts_anew_after_its_patience_and_not_before():
    layer = quantizer(codebook=4, patience=27, decay=0.5)
    corners = 10 * torch.eye(4)
    layer.codewords.copy_(corners), layer.sums.copy_(corners)
    noise = torch.randn(36, 4, generator=torch.Generator().manual_seed(0))

    def show(used: int) -> None:  # 36 codes a batch; patience is 108 codes, three batches
        layer((corners[torch.arange(36) % used] + noise).T.reshape(1, 4, 6, 6))

    show(4)
    assert float(layer.alive()) == 1.0
    for _ in range(2):
        show(3)
        assert layer.codewords[3].argmax() == 3 and int(layer.rested[3]) == 108
    assert float(layer.alive()) == 1.0 and int(layer.unused[3]) == 72
    show(3)
    assert int(layer.unused[3]) == 108 and int(layer.rested[3]) == 0
    assert layer.codewords[3].argmax() < 3
    assert float(layer.alive()) == 0.75  # it has been put elsewhere, but no code has used it yet
    show(3)
    assert float(layer.alive()) == 1.0


def test_without_patience_no_word_starts_anew():
    layer = quantizer(codebook=4, patience=0)
    layer.codewords[3] = layer.sums[3] = 1e3
    for step in range(10):
        layer(features(256, seed=step, centres=1))
    assert layer.codewords[3].norm() > 1e2 and float(layer.alive()) < 1


def test_places_are_drawn_evenly_one_from_each_stretch():
    draws = torch.stack([draw_places(0, torch.tensor(step), 10, 1000) for step in range(2000)])
    assert torch.equal(draws // 100, torch.arange(10).expand(2000, 10))
    within = (draws % 100).double()
    assert within.mean() == pytest.approx(49.5, abs=1) and within.std() == pytest.approx(28.87, abs=0.5)
    assert torch.corrcoef(within.T).fill_diagonal_(0).abs().max() < 0.1
    assert int(draw_places(0, torch.tensor(3), 10, 4).max()) <= 3  # more words than places
    others = torch.stack([draw_places(1, torch.tensor(step), 10, 1000) for step in range(2000)])
    assert (others == draws).double().mean() == pytest.approx(0.01, abs=0.003), "another run draws others"


def test_places_of_a_seed_never_change():
    assert draw_places(0, torch.tensor(7), 4, 100).tolist() == [0, 41, 56, 86]
    assert draw_places(5, torch.tensor(7), 4, 100).tolist() == [0, 43, 56, 88]


def test_perplexity_and_life_are_those_of_running_use():
    layer = FiniteScalarQuantizer((3, 3))
    assert float(layer.alive()) == 0.0
    x = torch.tensor([[-9.0, -9.0], [-9.0, 9.0], [9.0, -9.0], [9.0, -9.0]])[:, :, None, None]
    assert layer(x).codes.flatten().tolist() == [0, 6, 2, 2]
    assert float(layer.perplexity()) == pytest.approx(math.exp(1.5 * math.log(2)))
    assert float(layer.alive()) == pytest.approx(3 / 9)
    for _ in range(768):
        layer(x[[0, 2, 3]])
    assert float(layer.alive()) == pytest.approx(2 / 9)  # word 6 was last used 2,304 codes ago, 256 for each word
    new = sum(0.5 ** (3 * i / 2304) for i in range(768))
    share = torch.tensor([0.5 + new, 1 + 2 * new, 0.5])
    assert float(layer.perplexity()) == pytest.approx(float(torch.special.entr(share / share.sum()).sum().exp()), 1e-5)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4), (7, 6)])
def test_finite_scalars_have_every_word_once_and_find_each_again(levels):
    layer = FiniteScalarQuantizer(levels).eval()
    codes = torch.arange(layer.codebook).view(1, 1, -1)
    words = layer.embed(codes)[0, :, 0].T
    grid = itertools.product(*([(i - n // 2) / (n // 2) for i in range(n)] for n in reversed(levels)))
    torch.testing.assert_close(words.flip(1), torch.tensor(list(grid)))
    # the inverse of the squashing, from the levels
    count = torch.tensor(levels)
    half, offset = (count - 1) * (0.5 - 5e-4), 0.5 * (count % 2 == 0)
    inside = ((words * (count // 2) + offset) / half).clamp(-0.999, 0.999).atanh() - (offset / half).atanh()
    assert torch.equal(layer.codes(inside.T[None, :, None]), codes)
    assert torch.equal(layer.codes(layer.from_normal(torch.zeros(1, layer.width, 1, 1)) * 0).unique(), layer.codes(
        torch.zeros(1, layer.width, 1, 1)).unique())  # fmt: skip


def test_a_finite_scalar_rounds_the_squashed_and_passes_its_gradient():
    layer = FiniteScalarQuantizer((5,))
    x = torch.linspace(-3, 3, 61)[None, None, None].requires_grad_()
    found = layer(x)
    half = 2 * (1 - 1e-3)
    torch.testing.assert_close(found.latents, (x.tanh() * half).round() / 2)
    (gradient,) = torch.autograd.grad(found.latents.sum(), x)
    torch.testing.assert_close(gradient, (1 - x.tanh() ** 2) * half / 2)
    assert found.losses == {}


def test_noise_becomes_words_that_are_as_likely_as_each_other():
    layer = quantizer().eval()
    noise = torch.randn(1000, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    codes = layer.codes(layer.from_normal(noise))
    assert (codes.flatten().bincount(minlength=8) / codes.numel() - 1 / 8).abs().max() < 0.01
    assert layer.from_normal(torch.full((1, 4, 1, 1), 30.0)).isfinite().all()


def test_a_resumed_codebook_goes_on_bit_for_bit():
    whole, first, second = quantizer(patience=2), quantizer(patience=2), VectorQuantizer(8, 4, patience=2)
    for step in range(6):
        whole(features(3, seed=step))
    for step in range(3):
        first(features(3, seed=step))
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second(features(3, seed=step))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_codebook_that_the_data_does_not_support_is_refused():
    layer = quantizer(codebook=1000)
    with pytest.raises(ValueError, match="1000 words, but 50 training pictures with 16 codes each have only 800"):
        layer.check(50, 16)
    with pytest.warns(UserWarning, match=r"1000 words will describe 8000 codes of .* 8\.0 codes each"):
        layer.check(500, 16)
    layer.check(5000, 16)
    with pytest.raises(ValueError, match="at least 2 words"):
        quantizer(codebook=1)
    with pytest.raises(ValueError, match="at least 3 levels"):
        FiniteScalarQuantizer((8, 2))
    with pytest.raises(ValueError, match="decay"):
        quantizer(decay=1.0)


def test_a_codebook_is_not_run_again_for_its_gradients():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), quantizer())
    recompute(network, ["0"])
    with pytest.raises(ValueError, match="recompute names '1', whose codebook would learn from every image twice"):
        recompute(network, ["1"])


LAYERS = {
    "words": lambda: quantizer(codebook=12, decay=0.9, patience=2),
    "directions": lambda: quantizer(codebook=12, decay=0.9, patience=2, normalized=True),
    "levels": lambda: FiniteScalarQuantizer((3, 4, 3, 3)),
}
STEPS = 12


def trained(make, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Show a quantiser its share of some batches."""
    layer = make()
    for step in range(STEPS):
        share = 8 // world
        layer(features(8, seed=step)[rank * share : (rank + 1) * share])
    return layer.state_dict()


def work(rank: int, folder) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({name: trained(make, rank, 2) for name, make in LAYERS.items()}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.set_forkserver_preload(["lightning_avatars.cli"])
    mp.start_processes(work, (folder,), 2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_hold_the_codebook_that_one_would(both, name):
    alone = trained(LAYERS[name], 0, 1)
    for key, value in alone.items():
        assert torch.equal(both[0][name][key], both[1][name][key]), key
        torch.testing.assert_close(both[0][name][key], value, rtol=1e-5, atol=1e-5)
    assert name == "levels" or int(alone["rested"].min()) < 4 * 72  # some word has started anew in the meantime
