"""Patches that must be told from others: values in closed form, which gradients flow, and the heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from lightning_avatars.seeding import Draws
from lightning_avatars.terms.contrastive import PatchNCE, patch_contrast
from tests.conf.translation import cut_game, cycle_game


def test_patches_that_are_all_alike_cost_the_logarithm_of_their_number():
    same = normalize(torch.ones(2, 16, 8), dim=2)
    torch.testing.assert_close(patch_contrast(same, same, 0.07), torch.full((2,), math.log(16)))


def test_patches_that_have_nothing_in_common_cost_what_their_number_and_the_temperature_say():
    apart = torch.eye(8).expand(3, -1, -1)
    expected = math.log(1 + 7 * math.exp(-1 / 0.5))
    torch.testing.assert_close(patch_contrast(apart, apart, 0.5), torch.full((3,), expected))


def test_the_gradient_pulls_towards_a_patchs_own_key_and_away_from_the_others():
    torch.manual_seed(0)
    queries, keys = (normalize(torch.randn(1, 5, 4), dim=2) for _ in range(2))
    queries.requires_grad_()
    patch_contrast(queries, keys, 0.3).sum().backward()
    likely = (queries.detach() @ keys.transpose(1, 2) / 0.3).softmax(2)
    torch.testing.assert_close(queries.grad, (likely @ keys - keys) / 0.3 / 5)


def turn(module, start: int = 0, stop: int = 8):
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"image": images[start:stop], "labels": torch.zeros(stop - start, 0)}
    return module.step_class(module, batch, Draws(0, 0, 8, start, stop, torch.device("cpu")), "generator")


@pytest.mark.parametrize("identity", [0.0, 0.5])
def test_the_loss_is_that_of_a_slow_loop_over_images_layers_and_patches(identity):
    module = cut_game(identity=identity)
    term, step, generator = module.terms["generator"]["nce"], turn(module), module.generator
    losses = []
    kinds = [(step.source, step.made), (step.real, step.identity)] if identity else [(step.source, step.made)]
    for kind, (before, after) in enumerate(kinds):
        for image in range(4):
            for layer, head in zip((0, 1), term.heads_of_layers, strict=True):
                seen = [generator.features(x[image : image + 1], (layer,))[0][0].flatten(1) for x in (after, before)]
                chosen = step.draws.uniform(f"patches/{layer}/{kind}", 64)[image].topk(16).indices
                queries, keys = (normalize(head(x[:, chosen].T), dim=1) for x in seen)
                rows = [-torch.log_softmax(keys @ query / 0.07, 0)[i] for i, query in enumerate(queries)]
                losses.append((identity if kind else 1) * torch.stack(rows).mean() / 8)
    expected = torch.stack(losses).sum()
    torch.testing.assert_close(term(step), expected)


def test_gradients_reach_the_generator_and_the_heads_but_not_through_the_sources_features():
    module = cut_game(identity=0.0)
    term, step = module.terms["generator"]["nce"], turn(module)
    term(step).backward()
    assert all(p.grad is not None and p.grad.any() for p in (*module.generator.parameters(), *term.parameters()))
    assert step.batch["image"].grad is None
    module.configure_optimizers()
    trained = {id(p) for p in module.trained["generator"]}
    assert {id(p) for p in term.parameters()} <= trained


def test_chunks_draw_the_patches_that_the_whole_batch_draws():
    module = cut_game()
    term = module.terms["generator"]["nce"]
    whole = term(turn(module))
    halves = [term(turn(module, 0, 4)), term(turn(module, 4, 8))]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


BAD = {
    "needs a source .* which DomainTranslation has not": lambda: cycle_game(generator_terms={"nce": PatchNCE()}),
    "ascending numbers from 0 to 1": lambda: cut_game(generator_terms={"nce": PatchNCE()}),
    "put it into generator_terms": lambda: cut_game(discriminator_terms={"nce": PatchNCE()}),
    "patches must be at least 2": lambda: PatchNCE(patches=1),
}


@pytest.mark.parametrize("message", BAD)
def test_what_it_can_not_do_is_refused(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
