"""Tokens are drawn as often as they should be, from those that should be drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_avatars.networks.sequence import TokenSampling
from lightning_avatars.networks.transformer import Transformer


def slow(row: torch.Tensor, temperature: float, top_k: int | None, nucleus: float) -> np.ndarray:
    """Probabilities of one row of logits, number by number."""
    chances = np.exp(row.double().numpy() / temperature)
    if top_k is not None:
        for number in sorted(range(len(chances)), key=lambda i: -chances[i])[top_k:]:
            chances[number] = 0
    chances /= chances.sum()
    kept, total = np.zeros_like(chances), 0.0
    for number in sorted(range(len(chances)), key=lambda i: -chances[i]):
        if total >= nucleus:
            break
        kept[number] = chances[number]
        total += chances[number]
    return kept / kept.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 100])
@pytest.mark.parametrize("nucleus", [1.0, 0.8, 0.1])
def test_probabilities_equal_those_of_a_slow_version(temperature, top_k, nucleus):
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)) * 2
    found = TokenSampling(temperature, top_k, nucleus).probabilities(logits)
    expected = np.stack([slow(row, temperature, top_k, nucleus) for row in logits])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_a_nucleus_keeps_the_fewest_tokens_that_have_its_share():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double().log()
    kept = [
        int((TokenSampling(nucleus=share).probabilities(logits) > 0).sum()) for share in (0.01, 0.49, 0.51, 0.94, 0.96)
    ]
    assert kept == [1, 1, 2, 3, 4]


def test_tokens_are_drawn_as_often_as_is_likely_and_never_where_they_are_not():
    chances = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    drawn = TokenSampling().choose(chances.log().expand(10_000, -1), uniforms[:, None])
    assert torch.bincount(drawn[:, 0], minlength=6).tolist() == [0, 2000, 0, 5000, 3000, 0]
    ends = torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)
    assert TokenSampling().choose(chances.log().expand(2, -1), ends).tolist() == [[1], [4]]


def test_sequences_have_the_networks_distribution():
    torch.manual_seed(0)
    network = Transformer(3, 2, width=8, layers=1, heads=2).eval()
    torch.nn.init.normal_(network.head.weight, std=1.0)
    side = (torch.arange(200) + 0.5) / 200
    drawn = TokenSampling().draw(network, torch.cartesian_prod(side, side))
    with torch.no_grad():
        first = network(torch.tensor([[3]]))[0][0, -1].softmax(0)
        second = torch.stack([network(torch.tensor([[3, a]]))[0][0, -1].softmax(0) for a in range(3)])
    shares = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / len(drawn)
    torch.testing.assert_close(shares.view(3, 3), first[:, None] * second, atol=6e-3, rtol=0)


def uncached(network: Transformer, uniforms: torch.Tensor, labels: torch.Tensor | None, how: TokenSampling):
    """Draw tokens with the whole sequence seen anew for each, and labels and none one after the other."""
    tokens = torch.full((len(uniforms), 1), network.vocabulary)
    for uniform in uniforms[..., None].unbind(1):
        logits = network(tokens, labels)[0][:, -1]
        if how.guidance != 1:
            without = network(tokens, torch.zeros_like(labels))[0][:, -1]
            logits = without + how.guidance * (logits - without)
        tokens = torch.cat([tokens, how.choose(logits, uniform)], 1)
    return tokens[:, 1:]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("options", [{}, {"top_k": 4, "temperature": 0.9}, {"nucleus": 0.7}, {"guidance": 3.0}])
def test_sampling_with_what_is_kept_equals_sampling_without_token_by_token(rotary, options):
    torch.manual_seed(0)
    network = Transformer(32, 24, 3, width=32, layers=3, heads=4, rotary=rotary).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    labels, uniforms = torch.rand(8, 3), torch.rand(8, 24, dtype=torch.float64)
    how = TokenSampling(**options)
    with torch.no_grad():
        expected = uncached(network, uniforms, labels, how)
    assert torch.equal(how.draw(network, uniforms, labels), expected)
    assert len(expected.unique()) >= 5


def test_the_likeliest_token_alone_needs_no_luck():
    torch.manual_seed(0)
    network = Transformer(32, 8, width=32, layers=1, heads=4).eval()
    how = TokenSampling(top_k=1)
    drawn = how.draw(network, torch.rand(4, 8))
    assert torch.equal(drawn, drawn[:1].expand(4, -1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"nucleus": 0.0}, r"nucleus is a probability in \(0, 1\]"),
        ({"nucleus": 1.5}, "got 1.5"),
        ({"guidance": -1.0}, "guidance must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        TokenSampling(**options)
