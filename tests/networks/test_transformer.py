"""A transformer sees what came before and nothing else, whether or not it is kept."""

from __future__ import annotations

from math import log

import pytest
import torch

from lightning_avatars.networks.sequence import log_likelihood
from lightning_avatars.networks.transformer import Attention, Transformer, angles, turned


def transformer(**options) -> Transformer:
    torch.manual_seed(0)
    network = Transformer(**{"vocabulary": 11, "length": 9, "width": 16, "layers": 2, "heads": 4} | options)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return network.eval()


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("label_dim", [0, 3])
def test_token_by_token_is_the_same_as_all_at_once(rotary, label_dim):
    network = transformer(rotary=rotary, label_dim=label_dim)
    tokens, labels = torch.randint(11, (5, 9)), torch.rand(5, label_dim) if label_dim else None
    with torch.no_grad():
        whole, nothing = network(tokens, labels)
        state, steps = network.initial_state(5), []
        for token in tokens.split(1, 1):
            logits, state = network(token, labels, state)
            steps.append(logits)
        state, pieces = network.initial_state(5), []
        for piece in tokens.split([2, 4, 3], 1):
            logits, state = network(piece, labels, state)
            pieces.append(logits)
    assert nothing is None and state.length == 9 and whole.std() > 0.3
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
def test_what_is_foretold_depends_on_all_earlier_tokens_and_on_no_later_one(rotary):
    network = transformer(rotary=rotary)
    words = network.words(torch.randint(11, (1, 9))).detach().requires_grad_()
    network.words.forward = lambda tokens: words
    logits, _ = network(torch.zeros(1, 9, dtype=torch.long))
    for place in range(9):
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), words, retain_graph=True)
        moved = gradient[0].abs().sum(1)
        assert (moved[: place + 1] > 1e-6).all() and (moved[place + 1 :] == 0).all()


def test_attention_is_a_mean_of_values_weighed_by_how_well_keys_fit():
    torch.manual_seed(0)
    attention, x = Attention(8, 2, 0.0), torch.randn(1, 4, 8)
    query, key, value = attention.inputs(x)[0].chunk(3, 1)
    expected = torch.zeros(4, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for place in range(4):
            fits = torch.stack([query[place, head] @ key[other, head] / 2 for other in range(place + 1)]).softmax(0)
            expected[place, head] = sum(fits[other] * value[other, head] for other in range(place + 1))
    torch.testing.assert_close(attention(x)[0], attention.output(expected))


def test_rotary_positions_make_products_depend_on_distances_alone():
    query, key = torch.randn(2, 1, 1, 1, 8)
    places = angles(0, 40, 8, query.device)
    products = [float((turned(query, places[i][None]) * turned(key, places[i + 7][None])).sum()) for i in (0, 5, 32)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-4)
    assert float((turned(query, places[3][None]) * turned(key, places[4][None])).sum()) != pytest.approx(products[0])
    torch.testing.assert_close(turned(query, places[9][None]).norm(), query.norm())


def test_the_likelihood_is_that_of_each_token_given_those_before_it():
    network = transformer()
    tokens = torch.randint(11, (2, 9))
    found = log_likelihood(network, tokens)
    for place in range(9):
        before = torch.cat([torch.full((2, 1), 11), tokens[:, :place]], 1)
        expected = network(before)[0][:, -1].log_softmax(1).gather(1, tokens[:, place, None])[:, 0]
        torch.testing.assert_close(found[:, place], expected, rtol=1e-4, atol=1e-5)


def test_probabilities_of_all_sequences_sum_to_one():
    network = transformer(vocabulary=3, length=4)
    sequences = torch.cartesian_prod(*[torch.arange(3)] * 4)
    assert log_likelihood(network, sequences).detach().double().sum(1).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_every_parameter_gets_a_gradient_and_neutral_labels_change_nothing():
    network = transformer(label_dim=3, rotary=False)
    log_likelihood(network, torch.randint(11, (4, 9)), torch.rand(4, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    tokens = torch.randint(11, (1, 9))
    network.places.data.zero_()
    network.labels.weight.data.fill_(5.0)
    logits, _ = network(tokens, torch.zeros(1, 3))
    network.labels.weight.data.zero_()
    assert torch.equal(logits, network(tokens, torch.ones(1, 3))[0])


def test_a_new_network_foretells_every_token_alike():
    torch.manual_seed(0)
    network = Transformer(64, 16, width=64, layers=4)
    nats = -log_likelihood(network, torch.randint(64, (16, 16))).mean()
    assert nats.item() == pytest.approx(log(64), abs=0.05)


@pytest.mark.parametrize("kind", ["autocast", "true"])
def test_bfloat16_gives_finite_float32_logits_near_to_those_of_float32(kind):
    network, tokens = transformer(rotary=True), torch.randint(11, (4, 9))
    exact = network(tokens)[0].detach()
    if kind == "true":
        network = network.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        rough = network(tokens)[0]
        state, steps = network.initial_state(4), []
        for token in tokens.split(1, 1):
            logits, state = network(token, None, state)
            steps.append(logits)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()
    assert (torch.cat(steps, 1) - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 10}, "multiple of heads"),
        ({"layers": 0}, "layers at least 1"),
        ({"width": 12, "rotary": True}, "must be even"),
        ({"dropout": 1.0}, r"share in \[0, 1\)"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        transformer(**options)


def test_sequences_that_are_too_long_are_refused():
    network = transformer()
    with pytest.raises(ValueError, match="built for sequences of 9 tokens, and got 10"):
        network(torch.zeros(1, 10, dtype=torch.long))
    state = network(torch.zeros(1, 9, dtype=torch.long), None, network.initial_state(1))[1]
    with pytest.raises(ValueError, match="and got 10"), torch.no_grad():
        network(torch.zeros(1, 1, dtype=torch.long), None, state)
