"""The strength of augmentation: which way it goes, how fast, and that it resumes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lightning_avatars.augment.adaptive import AdaptiveAugment
from lightning_avatars.augment.differentiable import DiffAugment
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.networks.base import Verdict
from lightning_avatars.schedules import Constant
from lightning_avatars.terms.augmentation import AdaptiveStrength
from lightning_avatars.terms.gradients import R1
from tests.conf.training import fit, game, weights


def play(term: AdaptiveStrength, module: Adversarial, batches: int, *chunks: list[Tensor], size: int = 10) -> None:
    """Let the term see the same real logits in every turn."""
    for _ in range(batches):
        for logits in chunks:
            step = SimpleNamespace(module=module, real_verdict=Verdict(logits), draws=SimpleNamespace(total=size))
            term(step)
        term.after_step(step)
        module.turns["discriminator"] += 1


def adaptive(p: float = 0.5) -> Adversarial:
    return game(augment=AdaptiveAugment(p))


@pytest.mark.parametrize(("positive", "p"), [(10, 0.54), (9, 0.54), (7, 0.46), (0, 0.46)])
def test_it_goes_up_where_the_discriminator_overfits_and_down_where_not(positive, p):
    """The mean sign is 1, 0.8, 0.4 and -1; the target is 0.6."""
    module = adaptive()
    logits = torch.cat([torch.ones(positive), -3 * torch.ones(10 - positive)])
    play(AdaptiveStrength(images=1000), module, 4, [logits])  # 40 images of 1,000
    assert module.augment.p.item() == pytest.approx(p)


def test_at_the_target_it_stays():
    module = adaptive()
    play(AdaptiveStrength(0.5, images=100), module, 8, [torch.tensor([1.0, 1, 1, -1])])
    assert module.augment.p == 0.5


def test_it_moves_every_fourth_batch_and_takes_the_given_images_from_zero_to_one():
    module, term = adaptive(0.01), AdaptiveStrength(images=400)
    module.augment.p.zero_()
    for batches in range(1, 41):
        play(term, module, 1, [torch.ones(10)])
        assert module.augment.p.item() == pytest.approx(0.1 * (batches // 4), abs=1e-6)
    play(term, module, 40, [torch.ones(10)])
    assert module.augment.p == 1, "and no further"
    play(term, module, 80, [-torch.ones(10)])
    assert module.augment.p == 0


def test_signs_of_all_chunks_scales_and_batches_count_alike():
    term, module = AdaptiveStrength(batches=3), adaptive()
    play(term, module, 2, [torch.ones(6), -torch.ones(2, 1, 2, 2)], [torch.tensor([0.0, 5.0])])
    assert term.signs.tolist() == [2 * (6 - 8 + 1), 2 * 16]
    play(term, module, 1, [torch.ones(6)])
    assert term.signs.tolist() == [0, 0], "they are counted afresh"


def test_a_diverged_discriminator_leaves_p_a_number():
    module, term = adaptive(), AdaptiveStrength(images=1000, batches=1)
    play(term, module, 1, [torch.full((4,), torch.nan)])
    assert module.augment.p.item() == pytest.approx(0.49)
    play(term, module, 2, [torch.full((4,), torch.inf)])
    assert module.augment.p.item() == pytest.approx(0.51)


def test_what_it_saw_and_did_is_logged():
    module, term = adaptive(), AdaptiveStrength(images=100, batches=2)
    for p in (0.5, 0.3):
        play(term, module, 1, [torch.tensor([1.0, 1, 1, -1])])
        assert module.latest["discriminator/sign"].item() == pytest.approx(0.5)
        assert module.latest["augment/p"].item() == pytest.approx(p)


def test_it_adds_no_loss_and_no_graph():
    step = SimpleNamespace(real_verdict=Verdict([torch.ones(3, requires_grad=True)]))
    term = AdaptiveStrength()
    assert term(step) is None and not term.chunks.requires_grad


def augmented(**arguments: object) -> Adversarial:
    terms = {"strength": AdaptiveStrength(-0.9, images=100, batches=2), "r1": R1(every=2)}
    augment = AdaptiveAugment(0.3, filters=0.5, corruption=0.5)
    return game(augment=augment, discriminator_terms=terms, **arguments)


def test_training_moves_p_the_same_way_in_chunks(tmp_path):
    whole, chunks = augmented(), augmented(micro_batch=3)
    fit(whole, tmp_path / "whole")
    fit(chunks, tmp_path / "chunks")
    assert whole.augment.p.item() == pytest.approx(0.3 + 2 * 0.16)
    assert chunks.augment.p == whole.augment.p
    assert torch.equal(chunks.terms["discriminator"]["strength"].signs, whole.terms["discriminator"]["strength"].signs)
    assert whole.terms["discriminator"]["strength"].signs[1] == 16, "the fifth batch, two scales of eight images"
    for a, b in zip(chunks.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_has_the_same_strength(tmp_path):
    """The checkpoint at 24 images lies between two moves."""
    straight, resumed = augmented(), augmented()
    fit(straight, tmp_path / "straight", 40)
    fit(augmented(), tmp_path / "first", 24, save_every=24)
    (saved,) = (tmp_path / "first").rglob("images_000000024.ckpt")
    fit(resumed, tmp_path / "second", 40, ckpt_path=saved)
    assert straight.augment.p > 0.3
    assert torch.equal(weights(resumed), weights(straight))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 1.0}, "target is a mean of signs, between -1 and 1, got 1.0"),
        ({"images": 0}, "images and batches must be at least 1, got 0 and 4"),
        ({"batches": 0}, "images and batches must be at least 1, got 500000 and 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveStrength(**arguments)


STRENGTH = {"strength": AdaptiveStrength()}


@pytest.mark.parametrize(
    ("augment", "discriminator", "generator", "scheduled", "message"),
    [
        (
            None,
            STRENGTH,
            {},
            {},
            "discriminator_terms.strength: it moves .* but augment is none",
        ),
        (DiffAugment(), STRENGTH, {}, {}, "but augment is DiffAugment: give augment"),
        (AdaptiveAugment(), {}, {}, {}, "p = 0 that nothing moves: add an AdaptiveStrength"),
        (
            AdaptiveAugment(),
            {},
            STRENGTH,
            {},
            "generator_terms.strength: it is a term of the discriminator: put it",
        ),
        (
            AdaptiveAugment(),
            STRENGTH,
            {},
            {"augment.p": Constant(1.0)},
            "augment.p is moved by another",
        ),
        (
            AdaptiveAugment(),
            STRENGTH | {"b": AdaptiveStrength()},
            {},
            {},
            "augment.p is moved by another",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(augment, discriminator, generator, scheduled, message):
    with pytest.raises(ValueError, match=message):
        game(augment=augment, discriminator_terms=discriminator, generator_terms=generator, scheduled=scheduled)


@pytest.mark.parametrize(
    ("augment", "terms", "scheduled"),
    [
        (None, {}, {}),
        (DiffAugment(), {"r1": R1()}, {}),
        (AdaptiveAugment(), STRENGTH, {}),
        (AdaptiveAugment(0.2), {}, {}),
        (AdaptiveAugment(), {}, {"augment.p": Constant(1.0)}),
    ],
)
def test_what_goes_together_is_not(augment, terms, scheduled):
    game(augment=augment, discriminator_terms=terms, scheduled=scheduled)
