"""Autoencoders learn, say what they cost, go on exactly where they were, and train on two processes as on one."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avatars.callbacks.guard import Guard
from lightning_avatars.callbacks.run import Run
from lightning_avatars.images import to_float
from lightning_avatars.networks.convolutional import QuantizedConvolutionalAutoencoder
from lightning_avatars.networks.layers.bottlenecks import Plain
from lightning_avatars.networks.layers.quantizers import VectorQuantizer, quantizers_of
from lightning_avatars.objectives.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from lightning_avatars.schedules import Linear
from tests.conf.adversarial_autoencoders import vqgan_game
from tests.conf.autoencoders import MODULES, batch, draws, fast, module, network, quantised
from tests.conf.faults import equal
from tests.conf.processes import join, start_two
from tests.conf.training import fit, weights

# --- learning


def error(learner, folder, images):
    """Mean squared error of reconstructions of tiny faces after training."""
    store = fit(learner, folder, images).datamodule.store
    shown = {"image": torch.from_numpy(store.read(store.split("train"))), "labels": torch.eye(3)[[0] * 67]}
    return float((learner.reconstruct(shown) - to_float(shown["image"])).square().mean())


@pytest.mark.parametrize("name", ["vae", "plain", "words"])
def test_it_learns_to_reconstruct(tmp_path, name):
    assert error(MODULES[name](), tmp_path / "early", 8) > 0.5
    assert error(MODULES[name](), tmp_path / "late", 800) < 0.2


def test_samples_become_like_the_pictures(tmp_path):
    learner, corners = module(Gaussian(2.0, learned=False), optimizer=fast), [0, 7]
    fit(learner, tmp_path, 1600)
    samples = learner.sample(torch.arange(64))
    assert samples[:, :, corners][:, :, :, corners].mean() > 0.65, "corners are bright"
    assert samples[:, 1, 4, 4].mean() < -0.6, "the middle has no green"


def test_labels_are_obeyed(tmp_path):
    learner = module(Gaussian(2.0, learned=False), conditional=True, optimizer=fast)
    fit(learner, tmp_path, 800)
    red, blue = (
        learner.sample(torch.arange(32), torch.tensor([label]).expand(32, 3)) for label in ([1.0, 0, 1], [0.0, 1, 1])
    )
    inside = [(images[:, 0] - images[:, 2])[:, 4, 4].mean() for images in (red, blue)]
    assert inside[0] > 1 and inside[1] < -1


# --- the loss


def parts(learner, images=6):
    """Evaluate the loss once, as training does."""
    torch.manual_seed(1)
    image = learner.target(batch(images), draws(images))
    return image, learner.network(image, learner.labels_of(batch(images)))


def test_the_loss_is_minus_the_lower_bound_per_number_with_its_weights():
    learner = module(kl_weight=0.7)
    image, made = parts(learner)
    expected = -learner.likelihood.log_prob(made.output, image).mean() + 0.7 * made.rates[0].mean()
    torch.testing.assert_close(learner.loss(image, made), expected / 192)
    torch.testing.assert_close(learner.latest["train/rate"], made.rates[0].mean().detach())


def test_what_the_bottleneck_wants_is_minimised_too():
    learner = quantised()
    image, made = parts(learner)
    bound = -learner.likelihood.log_prob(made.output, image).mean() + 16 * math.log(8)
    torch.testing.assert_close(learner.loss(image, made), bound / 192 + made.losses["commitment"])
    assert {"train/commitment", "train/perplexity", "train/codes_alive"} <= learner.latest.keys()


def test_the_weight_of_the_rate_follows_images():
    learner = module(kl_weight=Linear(0.0, 2.0, last=100))
    image, made = parts(learner)
    for seen, weight in ((0, 0.0), (50, 1.0), (200, 2.0)):
        learner.images_seen = seen
        learner.loss(image, made)
        assert float(learner.latest["train/kl_weight"]) == weight


def test_free_bits_cost_nothing_and_have_no_gradient(tmp_path):
    learner = module(free_bits=2.0)
    learner.trainer = fit(module(), tmp_path, 8)
    for nats, slope in ((0.5, 0.0), (3.0, 0.25)):
        rate = torch.full((4,), nats, requires_grad=True)
        cost = learner.costly(rate.mean())
        cost.backward()
        assert cost.item() == max(nats, 2.0) and rate.grad.tolist() == [slope] * 4


@pytest.mark.parametrize("name", MODULES)
def test_gradients_reach_every_parameter_that_is_trained(name, tmp_path):
    learner = MODULES[name]()
    if learner.free_bits:
        learner.free_bits = 1e-6
        learner.trainer = fit(module(), tmp_path, 8)
    learner.images_seen = 80
    learner.loss(*parts(learner)).backward()
    optimizer = learner.configure_optimizers()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len([p for p in learner.parameters() if p.requires_grad])
    assert all(p.grad is not None and (p.grad != 0).any() for p in trained)


# --- what others rely on


def test_the_mean_weight_is_the_lower_bound_and_more_samples_are_tighter():
    learner, shown = module(average_half_life=None), batch(4)
    with torch.no_grad():
        learner.network.encoder.head.weight.mul_(3)
    torch.manual_seed(0)
    found = learner.log_weights(shown, 4000, draws(4))
    assert found is not None and found.shape == (4, 4000)
    torch.manual_seed(0)
    network = learner.network.eval()
    image = to_float(shown["image"]).repeat_interleave(4000, 0)
    with torch.no_grad():
        made = network(image)
        bound = learner.likelihood.log_mass(made.output, image) - made.rates[0]
    error = (found - bound.view(4, 4000)).std(1) / 4000**0.5
    assert ((found.mean(1) - bound.view(4, 4000).mean(1)).abs() < 4 * error).all()
    tighter = found.logsumexp(1) - math.log(4000)
    assert (tighter > found.mean(1)).all()
    rates = learner.rates(shown, draws(4))
    torch.testing.assert_close(rates[0], made.rates[0].view(4, 4000)[:, 0])


def test_words_weigh_as_much_as_it_takes_to_name_them():
    learner, shown = quantised(), batch(4)
    found = learner.log_weights(shown, 2, draws(4))
    assert found is not None and torch.equal(found[:, 0], found[:, 1])
    output = learner.sampler.eval()(to_float(shown["image"])).output
    expected = learner.likelihood.log_mass(output, to_float(shown["image"])) - 16 * math.log(8)
    torch.testing.assert_close(found[:, 0], expected)
    counts = learner.word_counts(shown)
    assert counts is not None and counts.shape == (8,) and counts.sum() == 4 * 16


def test_an_autoencoder_without_a_prior_has_no_likelihood_and_without_words_no_counts():
    learner = MODULES["plain"]()
    assert learner.log_weights(batch(), 2, draws()) is None and learner.rates(batch(), draws()) == []
    assert learner.word_counts(batch()) is None
    assert learner.likelihood_facts() == {"likelihood": "Gaussian", "of": "bytes"}


@pytest.mark.parametrize("name", MODULES)
def test_samples_depend_on_their_seed_alone(name):
    learner = MODULES[name]()
    seeds = torch.tensor([3, 1, 4])
    labels = torch.eye(3) if learner.conditional else None
    images = learner.sample(seeds, labels)
    assert images.shape == (3, 3, 8, 8) and images.abs().max() <= 1
    again = learner.sample(seeds[1:], labels[1:] if labels is not None else None)
    torch.testing.assert_close(images[1:], again, rtol=1e-5, atol=1e-6)


def test_truncation_moves_latents_towards_the_mean():
    learner = module(bottleneck=Plain(4))
    learner.sampler.bottleneck.location += 2
    seeds = torch.arange(3)
    middle = learner.sampler.from_normal(torch.zeros(3, 4))
    half = learner.decode(middle.lerp(learner.latents(seeds), 0.5))
    torch.testing.assert_close(learner.sample(seeds, truncation_psi=0.5), half)
    torch.testing.assert_close(learner.sample(seeds, truncation_psi=0.0), learner.decode(middle))


@pytest.mark.parametrize("name", MODULES)
def test_pictures_are_encoded_reconstructed_and_previewed(name):
    learner, shown = MODULES[name](), batch()
    learner.set_extra_state(learner.get_extra_state() | {"label_rows": torch.eye(3)})
    latents = learner.encode(to_float(shown["image"]), learner.labels_of(shown))
    assert latents.shape == (6, learner.sampler.latent_dim)
    (found,) = learner.evaluation_sets(shown).values()
    assert torch.equal(found.images, learner.decode(latents, learner.labels_of(shown)))
    assert torch.equal(found.target, shown["image"])
    sheets = learner.preview(shown)
    assert sheets["samples"].shape == (64, 3, 8, 8)
    torch.testing.assert_close(sheets["reconstructions"][::2], to_float(shown["image"]))
    torch.testing.assert_close(sheets["reconstructions"][1::2], found.images)


def test_exported_weights_make_the_same_images():
    learner, other = module(DiscretizedLogistic()), module(DiscretizedLogistic())
    for p in learner.parameters():
        p.data.add_(0.1)
    assert not torch.equal(learner.sample(torch.arange(2)), other.sample(torch.arange(2)))
    other.load_sampling_state(learner.sampling_state())
    assert torch.equal(learner.sample(torch.arange(2)), other.sample(torch.arange(2)))
    assert torch.equal(learner.likelihood.log_scale, other.likelihood.log_scale)


def test_looking_at_a_module_changes_nothing_of_it():
    learner = quantised()
    before, state = weights(learner), torch.get_rng_state()
    learner.preview(batch())
    assert torch.equal(weights(learner), before) and torch.equal(torch.get_rng_state(), state)
    assert learner.network.training


# --- training


@pytest.mark.parametrize("name", MODULES)
def test_a_run_that_is_interrupted_ends_with_the_same_bits(tmp_path, name):
    whole, first, second = (MODULES[name]() for _ in range(3))
    states = [fit(whole, tmp_path / "whole", 96), fit(first, tmp_path / "first", 48)]
    for p in second.parameters():
        p.data.zero_()
    checkpoint = tmp_path / "first/checkpoints/images_000000048.ckpt"
    states.append(fit(second, tmp_path / "second", 96, ckpt_path=checkpoint))
    assert torch.equal(weights(second), weights(whole)) and second.images_seen == 96
    assert equal(*(trainer.optimizers[0].state_dict() for trainer in (states[0], states[2])))
    assert not torch.equal(weights(first), weights(whole))


@pytest.mark.parametrize("make", [quantised, vqgan_game])
def test_words_start_anew_by_the_runs_seed_and_by_another_where_it_has_gone_back(tmp_path, make):
    seeds = []
    for seed, gone_back in ((0, 0), (5, 0), (5, 1)):
        learner, guard = make(seed=seed), Guard(every=0)
        guard.counts["gone_back"] = gone_back
        fit(learner, tmp_path / f"{seed}_{gone_back}", 8, callbacks=[guard, Run(images=8, validate_every=0)])
        seeds.append({quantizer.seed for quantizer in quantizers_of(learner) if quantizer.training})
    assert seeds == [{0}, {5}, {6}]


def parameters(learner):
    """Flatten what is trained."""
    return torch.cat([p.detach().flatten() for p in learner.network.parameters()])


def test_lightnings_accumulation_and_clipping_work(tmp_path):
    options = {
        "optimizer": lambda p: torch.optim.SGD(p, 1e-3),
        "bottleneck": Plain(4),
        "likelihood": Gaussian(0.3, learned=False),
    }
    whole, halves = module(**options), module(**options)
    fit(whole, tmp_path / "whole", 32, batch_size=16)
    fit(halves, tmp_path / "halves", 32, batch_size=8, accumulate_grad_batches=2)
    assert halves.images_averaged == 32
    torch.testing.assert_close(parameters(whole), parameters(halves), rtol=1e-4, atol=1e-6)
    clipped, start = module(**options), parameters(module(**options))
    fit(clipped, tmp_path / "clipped", 8, gradient_clip_val=1e-9)
    moved = [(parameters(made) - start).norm() for made in (clipped, halves)]
    assert moved[0] < 1e-3 * moved[1]


def test_the_learning_rate_follows_images(tmp_path):
    trainer = fit(module(learning_rate=Linear(0.1, 0.0, last=160)), tmp_path, 48)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.075)


def test_validation_logs_distortion_and_rate(tmp_path):
    trainer = fit(module(), tmp_path, 16)
    found = trainer.callback_metrics
    assert {"train/loss", "train/distortion", "train/rate", "val/distortion", "val/rate"} <= found.keys()


def test_scores_of_a_batch_depend_on_its_pictures_alone(monkeypatch):
    learner, found = module(Bernoulli()), []
    monkeypatch.setattr(learner, "log_dict", lambda scores, **_: found.append(scores))
    monkeypatch.setattr(learner, "log_clock", lambda: None)
    for first, number in ((0, 0), (0, 3), (6, 0)):  # a process of several meets it under another number
        learner.validation_step(batch() | {"index": torch.arange(first, first + 6)}, number)
    assert found[0] == found[1] and found[0]["val/distortion"] != found[2]["val/distortion"]


def test_memory_is_foretold(tmp_path):
    learner = quantised()
    learner.trainer = fit(module(), tmp_path, 8)
    before = weights(learner)
    need = learner.memory_need(16, 3, 8)
    assert need.weights > 4 * sum(p.numel() for p in learner.parameters()) and need.activations > 4 * 16 * 192
    assert torch.equal(weights(learner), before)


# --- errors


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: module(conditional=True, net=network()), "conditional is True, but ConvolutionalAutoencoder takes"),
        (lambda: module(net=network(label_dim=3)), "conditional is False, but ConvolutionalAutoencoder takes"),
        (lambda: module(free_bits=-1.0), "free_bits and kl_weight must be at least 0, got -1.0 and 1.0"),
        (lambda: module(kl_weight=-2.0), "got 0.0 and -2.0"),
    ],
)
def test_parts_that_do_not_go_together_are_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: module(Bernoulli()), "Bernoulli is a likelihood of black and white pictures, but the data has 3"),
        (
            lambda: module(DiscretizedLogistic(), net=network()),
            "takes 2 numbers for each channel of images 3 x 8 x 8, so an output of 6 x 8 x 8, but .* gives 3 x 8 x 8",
        ),
        (lambda: module(Gaussian(), net=network(numbers=2)), "an output of 3 x 8 x 8, but .* gives 6 x 8 x 8"),
    ],
)
def test_a_likelihood_that_does_not_go_with_the_data_is_an_error_before_training(make, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        fit(make(), tmp_path, 8)


def test_a_codebook_larger_than_the_data_supports_is_an_error_before_training(tmp_path):
    net = QuantizedConvolutionalAutoencoder(VectorQuantizer(4096, 4), 8, 3, grid=4, width=8, blocks=1)
    with pytest.raises(ValueError, match="the codebook has 4096 words, but 68 training pictures with 16 codes each"):
        fit(module(net=net), tmp_path, 8)


# --- two processes


def work(rank, port, folder):
    """Train every autoencoder as one of two processes of Lightning's own DDP and keep the weights."""
    join(rank, port)
    for name, make in MODULES.items():
        learner = make()
        fit(learner, folder / f"{name}_{rank}", IMAGES, devices=2, strategy="ddp")
        torch.save(weights(learner), folder / f"{name}_{rank}.pt")


IMAGES = 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    start_two(work, folder)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_two_processes_equal_one(folder, tmp_path, name):
    alone = MODULES[name]()
    start = weights(alone).clone()
    fit(alone, tmp_path, IMAGES)
    ranks = [torch.load(folder / f"{name}_{rank}.pt") for rank in range(2)]
    assert torch.equal(*ranks), "every weight and buffer must be equal on all processes"
    assert (weights(alone) - start).abs().max() > 1e-3
    torch.testing.assert_close(ranks[0], weights(alone), rtol=1e-5, atol=1e-5)
