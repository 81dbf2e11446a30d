"""Autoencoders that a discriminator judges: what each turn is made of, what learns from what, and sameness."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.images import to_float
from lightning_avatars.latents import Uniform
from lightning_avatars.networks.layers.bottlenecks import Plain
from lightning_avatars.networks.layers.quantizers import VectorQuantizer
from lightning_avatars.networks.vqgan import VQGAN
from lightning_avatars.objectives.adversarial import NonSaturating
from lightning_avatars.schedules import Steps
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.balance import AdaptiveWeight
from lightning_avatars.terms.bottleneck import Commitment, Rate
from lightning_avatars.terms.gradients import R1, R2
from lightning_avatars.terms.paths import PathLength
from lightning_avatars.terms.reconstruction import L1
from tests.conf.adversarial_autoencoders import tiny_kl, tiny_patches, tiny_vqgan, vaegan_game, vqgan_game
from tests.conf.tiny import TinyGenerator
from tests.conf.training import TINY, fit, game, weights

GAMES = {
    "vqgan": vqgan_game,
    "vaegan": vaegan_game,
    "conditional": lambda **more: vqgan_game(conditional=True, **more),
    "late": lambda **more: vqgan_game(adversarial_weight=Steps({0: 0.0, 24: 0.5}), **more),
    "unshared": lambda **more: vaegan_game(discriminator_terms={"r1": R1(0.1), "r2": R2(0.1)}, **more),
}


def turn(module, player: str, n: int = 4):
    """A turn on pictures of noise."""
    image = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    draws = Draws(0, 0, n, 0, n, torch.device("cpu"))
    return module.step_class(module, {"image": image, "labels": torch.zeros(n, 3)}, draws, player)


def test_the_fake_is_the_reconstruction_and_the_target_the_real_image():
    module = vaegan_game(generator=tiny_kl(bottleneck=Plain(4)))
    step = turn(module, "generator")
    expected = module.generator(step.real)
    torch.testing.assert_close(step.fake, expected.output, rtol=0, atol=0)
    assert step.fake.requires_grad and step.target is step.real
    assert not turn(module, "discriminator").fake.requires_grad
    latents = module.generator.from_normal(step.latent)
    torch.testing.assert_close(step.drawn, module.generator.decode(latents))


def test_the_adversarial_loss_is_the_mean_over_reconstructions_and_samples_by_their_shares():
    module = vaegan_game(samples=0.25).eval()
    for player in ("discriminator", "generator"):
        step = turn(module, player)
        parts = [module.compare(player, step, v) for v in (step.reconstruction_verdict, step.drawn_verdict)]
        expected = 0.75 * parts[0] + 0.25 * parts[1]
        torch.testing.assert_close(module.adversarial_loss(player, step), expected)
        assert not torch.isclose(*parts)


@pytest.mark.parametrize("plays", [False, True])
def test_the_encoder_learns_from_the_adversary_only_where_it_plays(plays):
    module = vaegan_game(encoder_plays=plays)
    module.adversarial_loss("generator", turn(module, "generator")).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.generator.decoder.parameters())
    assert any(p.grad is not None for p in module.generator.encoder.parameters()) == plays


@pytest.mark.parametrize("make", [vqgan_game, vaegan_game])
def test_a_turn_reaches_every_parameter_of_its_player_and_no_other(make):
    module = make(objective=NonSaturating())  # a hinge's pulls on the last bias cancel out
    for player, other in (("discriminator", "generator"), ("generator", "discriminator")):
        module.zero_grad()
        for p in module.discriminator.parameters():
            p.requires_grad_(player == "discriminator")
        losses = module.losses(player, turn(module, player), module.due(player))
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.any() for p in getattr(module, player).parameters())
        assert all(p.grad is None for p in getattr(module, other).parameters())


@pytest.mark.parametrize("name", GAMES)
def test_a_resumed_run_is_the_same_run(tmp_path, name):
    whole, first, second = (GAMES[name]() for _ in range(3))
    fit(whole, tmp_path / "whole", images=64)
    fit(first, tmp_path / "half", images=32)
    fit(second, tmp_path / "half", images=64, ckpt_path=tmp_path / "half/checkpoints/images_000000032.ckpt")
    assert torch.equal(weights(second), weights(whole))
    assert second.turns == whole.turns and not torch.equal(weights(whole), weights(GAMES[name]()))


def test_the_discriminator_waits_until_its_weight_is_no_longer_zero(tmp_path):
    module = GAMES["late"]()
    before = weights(module.discriminator)
    trainer = fit(module, tmp_path / "a", images=24)
    assert torch.equal(weights(module.discriminator), before) and trainer.global_step == 3
    assert module.turns == {"discriminator": 0, "generator": 3}
    assert not any("adversarial" in name for name in module.latest)
    module = GAMES["late"]()
    trainer = fit(module, tmp_path / "b", images=40)
    assert module.turns == {"discriminator": 2, "generator": 5} and trainer.global_step == 5
    assert not torch.equal(weights(module.discriminator), before)
    assert {"discriminator/adversarial", "generator/adversarial", "balance/adaptive"} <= module.latest.keys()


def test_before_its_start_the_game_is_that_of_an_autoencoder_alone(tmp_path):
    """Against a loop of its own."""
    module = vqgan_game(adversarial_weight=Steps({0: 0.0, 1000: 1.0}), average_half_life=None)
    network = tiny_vqgan()
    network.load_state_dict(module.generator.state_dict())
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch["image"].clone())

    fit(module, tmp_path, callbacks=[Run(images=24, validate_every=0, save_every=0), Seen()])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.9))
    for image in map(to_float, seen):
        made = network(image)
        optimizer.zero_grad()
        ((made.output - image).abs().mean() + made.losses["commitment"]).backward()
        optimizer.step()
    torch.testing.assert_close(weights(module.generator), weights(network), rtol=1e-5, atol=1e-5)


def test_the_adaptive_weight_is_eq_7_by_hand():
    module = vqgan_game(adversarial_weight=0.8)
    step = turn(module, "generator")
    losses = module.losses("generator", step, module.due("generator"))
    last = module.generator.decoder.output.weight
    l1 = (step.fake - step.real).abs().mean()
    hinge = -step.fake_verdict.logits[0].mean()
    pull, push = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (l1, hinge))
    torch.testing.assert_close(losses["adversarial"], 0.8 * pull / (push + 1e-6) * hinge)
    assert module.latest["balance/adaptive"] == pytest.approx(float(pull / (push + 1e-6)))
    assert not losses["adversarial"].isnan() and losses["l1"] == l1
    weighed = torch.autograd.grad(losses["adversarial"], last, retain_graph=True)[0].norm()
    assert float(weighed) == pytest.approx(0.8 * float(pull), rel=1e-3), "it pulls as hard as the weight says"


def test_samples_and_reconstructions_come_from_averaged_weights_without_noise(tmp_path):
    module = vaegan_game()
    fit(module, tmp_path, images=16)
    batch = {"image": torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8), "labels": torch.zeros(5, 3)}
    found = module.evaluation_sets(batch)["reconstruction"]
    network = module.average.average
    assert torch.equal(found.target, batch["image"])
    torch.testing.assert_close(found.images, network.decode(network.encode(to_float(batch["image"]))))
    assert torch.equal(found.images, module.evaluation_sets(batch)["reconstruction"].images)
    samples = module.sample(torch.arange(6))
    torch.testing.assert_close(samples[4:], module.sample(torch.tensor([4, 5])))
    torch.testing.assert_close(samples, network.decode(network.from_normal(module.prior.of_seeds(torch.arange(6), 64))))
    shown = module.preview(batch)
    assert torch.equal(shown["reconstructions"][1::2], found.images) and len(shown["samples"]) == 64
    assert module.generator.training
    torch.testing.assert_close(
        module.decode(module.latents(torch.arange(2)), None, 0.0), module.decode(torch.zeros(2, 64))
    )


def test_the_use_of_words_is_counted_and_logged(tmp_path):
    module = vqgan_game()
    fit(module, tmp_path, images=16)
    batch = {"image": torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8), "labels": torch.zeros(5, 3)}
    counts = module.word_counts(batch)
    assert counts.shape == (16,) and counts.sum() == 5 * 4 * 4
    assert 1 <= module.latest["codebook/perplexity"] <= 16 and 0 < module.latest["codebook/alive"] <= 1
    assert vaegan_game().word_counts(batch) is None


BAD = {
    "has no encoder": lambda: vqgan_game(generator=TinyGenerator()),
    "from 0 to below 1": lambda: vqgan_game(samples=1.0),
    "leave it out": lambda: vqgan_game(prior=Uniform()),
    "needs a target": lambda: game(generator_terms={"l1": L1()}),
    "needs a reconstruction": lambda: game(generator_terms={"rate": Rate()}),
    "put it into generator_terms": lambda: vqgan_game(discriminator_terms={"l1": L1()}),
    r"has no head\.weight": lambda: vqgan_game(balance=AdaptiveWeight("head")),
    "there are no generator_terms": lambda: vqgan_game(generator_terms={}),
    "begins at 0": lambda: game(adversarial_weight=0.0),
    "at least one of them in every turn": lambda: vqgan_game(
        adversarial_weight=0.0, generator_terms={"l1": L1(every=2)}
    ),
    "with a weight from the start": lambda: vqgan_game(
        adversarial_weight=0.0, generator_terms={"l1": L1(Steps({0: 0.0, 8: 1.0}))}
    ),
    "0 or more": lambda: game(adversarial_weight=-1.0),
    "takes label vectors": lambda: vqgan_game(generator=tiny_vqgan(3)),
    "generator_terms.path": lambda: vqgan_game(generator_terms={"path": PathLength()}),
}


@pytest.mark.parametrize("message", BAD)
def test_parts_that_do_not_go_together_are_refused_at_construction(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_outputs_that_are_no_images_are_refused(tmp_path):
    module = vqgan_game(generator=tiny_vqgan(parameters_per_channel=2))
    with pytest.raises(ValueError, match="parameters_per_channel to 1"):
        fit(module, tmp_path, images=8)


def test_codebooks_larger_than_the_data_supports_are_refused(tmp_path):
    network = VQGAN(8, 3, 0, VectorQuantizer(codebook=5000, width=4), width=8, multipliers=(1, 2))
    with pytest.raises(ValueError, match="codebook has 5000 words"):
        fit(vqgan_game(generator=network), tmp_path, images=8)


def test_it_trains_in_half_precision_much_as_in_float32(tmp_path):
    for name in ("vqgan", "vaegan"):
        exact, half = GAMES[name](), GAMES[name]()
        fit(exact, tmp_path / f"{name}_exact", images=40)
        fit(half, tmp_path / f"{name}_half", images=40, precision="bf16-mixed")
        assert {t.dtype for t in (*half.parameters(), *half.buffers()) if t.is_floating_point()} == {torch.float32}
        parts = [torch.cat([p.detach().flatten() for p in module.parameters()]) for module in (exact, half)]
        assert (parts[0] - parts[1]).norm() < 0.03 * parts[0].norm()
        for loss, value in exact.latest.items():
            if loss.partition("/")[0] in ("generator", "discriminator"):
                assert float(half.latest[loss]) == pytest.approx(float(value), rel=0.06, abs=0.01), loss


def test_chunks_equal_the_whole_batch_where_nothing_else_is_drawn_or_counted(tmp_path):
    def make(**more):
        torch.manual_seed(0)
        parts = {"generator": tiny_kl(bottleneck=Plain(4)), "generator_terms": {"l1": L1()}, "balance": None}
        return vqgan_game(discriminator=tiny_patches(normalization=nn.Identity), **parts, **more)

    whole, chunked = make(), make(micro_batch=3)
    fit(whole, tmp_path / "whole"), fit(chunked, tmp_path / "chunked")
    ends = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (whole, chunked)]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_commitment_and_rate_are_the_bottlenecks_own():
    step = turn(vqgan_game(), "generator")
    assert torch.equal(Commitment()(step), step.reconstruction.losses["commitment"])
    assert float(Rate()(step)) == pytest.approx(16 * torch.log(torch.tensor(16.0)).item() / (3 * 8 * 8))
    step = turn(vaegan_game(generator=tiny_kl(bottleneck=Plain(4))), "generator")
    assert Commitment()(step) is None and Rate()(step) is None


def test_the_command_line_trains_scores_samples_and_explores_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = str(Path(__file__).parents[1] / "conf/tiny_vqgan.yaml")
    quiet = ["--preview.every", "8", "--trainer.logger", "false", "--quality.enabled", "false"]
    shown = ["--reconstruction.images", "12", "--run.images", "16", "--data.dataset.init_args.count", "320"]
    main(["fit", "-c", TINY, "--model", tiny, "--trainer.default_root_dir", "run", *quiet, *shown])
    checkpoint = "run/checkpoints/images_000000016.ckpt"
    assert Path("run/previews/reconstructions_000000016.png").is_file()
    module = load_module(Path(checkpoint))
    assert module.images_seen == 16 and module.turns == {"discriminator": 1, "generator": 2}
    main(["sample", checkpoint, "--count", "4", "--output", "samples"])
    assert len(list(Path("samples").rglob("*.png"))) >= 4
    main(["explore", checkpoint, "--output", "walk", "--rows", "2", "--steps", "3", "--video", "none"])
    assert {"interpolation_linear.png", "traversal.png"} <= {path.name for path in Path("walk").iterdir()}
