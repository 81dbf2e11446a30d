"""The one game: its slots, its clocks, its chunks and its sameness after a resume."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_avatars.callbacks.run import Run
from lightning_avatars.images import to_float
from lightning_avatars.networks.base import Verdict
from lightning_avatars.networks.layers.labels import ProjectionHead
from lightning_avatars.objectives.adversarial import Hinge, LeastSquares, Relativistic, Wasserstein
from lightning_avatars.schedules import Constant, Linear, Steps
from lightning_avatars.terms.balance import Balance
from lightning_avatars.terms.base import Term
from lightning_avatars.terms.clipping import WeightClip
from lightning_avatars.terms.gradients import R1, R2, GradientPenalty
from tests.conf.tiny import TinyDiscriminator, TinyGenerator
from tests.conf.training import fit, game, weights
from tests.test_precision import half

PENALTIES = {
    "r1_r2": lambda: {
        "objective": Relativistic(),
        "discriminator_terms": {"r1": R1(0.5, every=2), "r2": R2(0.5)},
        "clip_gradients": 0.5,
    },
    "gradient_penalty": lambda: {
        "objective": Wasserstein(),
        "discriminator_terms": {"gp": GradientPenalty(10.0)},
        "critics": 2,
    },
    "conditional": lambda: {"objective": Hinge(), "conditional": True},
}


class Recorder(Term):
    """A loss with a parameter, and a count of its turns in a buffer."""

    def __init__(self, weight=1.0, every: int = 1) -> None:
        super().__init__(weight, every)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("acted", torch.zeros(()))
        self.players = []

    def forward(self, step):
        self.players.append(step.player)
        return step.fake.square().mean() * self.scale.square()

    def after_step(self, step):
        self.acted += 1


def test_every_loss_is_logged_under_its_own_name(tmp_path):
    module = game(discriminator_terms={"r1": R1(0.1)}, generator_terms={"extra": Recorder(0.5)})
    trainer = fit(module, tmp_path)
    assert {
        "discriminator/adversarial", "discriminator/r1", "generator/adversarial", "generator/extra"
    } <= trainer.callback_metrics.keys()  # fmt: skip


@pytest.mark.parametrize("name", PENALTIES)
def test_chunks_equal_the_whole_batch(tmp_path, name):
    whole, chunked = game(**PENALTIES[name]()), game(**PENALTIES[name](), micro_batch=3)
    fit(whole, tmp_path / "whole"), fit(chunked, tmp_path / "chunked")
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=1e-5, atol=1e-6)
    assert not torch.equal(weights(whole), weights(game(**PENALTIES[name]())))


@pytest.mark.parametrize("name", PENALTIES)
def test_resumed_run_is_the_same_run(tmp_path, name):
    whole, first, second = (game(**PENALTIES[name](), normalized=name != "gradient_penalty") for _ in range(3))
    fit(whole, tmp_path / "whole", images=80)
    fit(first, tmp_path / "half", images=40)
    fit(second, tmp_path / "half", images=80, ckpt_path=tmp_path / "half/checkpoints/images_000000040.ckpt")
    assert torch.equal(weights(second), weights(whole))
    assert second.turns == whole.turns and second.images_seen == whole.images_seen == 80


def test_global_step_counts_batches_and_critics_set_the_turns(tmp_path):
    module = game(critics=2)
    trainer = fit(module, tmp_path, images=48)
    assert trainer.global_step == 6
    assert module.turns == {"discriminator": 6, "generator": 3}


def test_one_fake_serves_both_turns_where_nothing_differentiates_it(tmp_path):
    shared, split = game(), game(discriminator_terms={"r2": R2()})
    fit(shared, tmp_path / "a", images=40), fit(split, tmp_path / "b", images=40)
    assert shared.generator.calls == 5
    assert split.generator.calls == 10


def test_sharing_the_fake_changes_no_gradient(tmp_path):
    """Batch and latents equal, a shared fake must give what two fakes of the same latents give."""
    shared, chunked = game(), game(micro_batch=4)
    fit(shared, tmp_path / "a"), fit(chunked, tmp_path / "b")
    torch.testing.assert_close(weights(shared), weights(chunked), rtol=1e-5, atol=1e-6)


def test_terms_wait_for_their_turn_and_weigh_as_much_as_they_skip(tmp_path):
    term = Recorder(Constant(0.5), every=3)
    fit(game(generator_terms={"extra": term}), tmp_path, images=56)
    assert term.players == ["generator"] * 3 and term.acted == 3  # turns 0, 3, 6
    assert term.scale.item() != 1, "a term's own parameters belong to its player's optimizer"


def test_a_term_may_differentiate_the_latent(tmp_path):
    class Slope(Term):
        differentiates = ("latent",)

        def forward(self, step):
            (gradient,) = torch.autograd.grad(step.fake.sum(), step.latent, create_graph=True)
            return gradient.square().sum(1).mean()

    trainer = fit(game(generator_terms={"slope": Slope()}), tmp_path)
    assert trainer.callback_metrics["generator/slope"] > 0


def test_weight_zero_turns_a_term_off(tmp_path):
    term = Recorder(Steps({0: 0.0, 24: 1.0}))
    fit(game(discriminator_terms={"extra": term}), tmp_path, images=40)
    assert term.players == ["discriminator"] * 2


def test_lazy_term_counts_every_times(tmp_path):
    found = {}
    for every in (1, 4):
        module = game(discriminator_terms={"r1": R1(0.7, every=every)})
        found[every] = fit(module, tmp_path / str(every), images=8).callback_metrics["discriminator/r1"]
    torch.testing.assert_close(found[4], 4 * found[1])


def test_weight_clip_keeps_every_weight_in_the_box(tmp_path):
    module = game(objective=Wasserstein(), discriminator_terms={"clip": WeightClip(0.02)})
    fit(module, tmp_path)
    assert max(p.abs().max() for p in module.discriminator.parameters()) <= 0.02
    assert max(p.abs().max() for p in module.generator.parameters()) > 0.02


def test_augmentation_stands_between_image_and_discriminator(tmp_path):
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.streams, self.images = [], []

        def forward(self, image, draws, stream):
            self.streams.append(stream)
            return image + draws.uniform(stream, 1, 1, 1) * 0.1

    module = game(augment=Shift(), discriminator_terms={"r1": R1()})
    fit(module, tmp_path, images=8)
    assert sorted(module.augment.streams) == ["discriminator/fake", "discriminator/real", "generator/fake"]


def test_balance_may_reweigh_the_generators_losses(tmp_path):
    class OnlyExtra(Balance):
        def forward(self, losses, step):
            return {"extra": losses["extra"], "adversarial": losses["adversarial"] * 0}

    a, b = (
        game(generator_terms={"extra": Recorder()}, balance=OnlyExtra(), objective=objective)
        for objective in (Hinge(), LeastSquares())
    )
    fit(a, tmp_path / "a", images=8), fit(b, tmp_path / "b", images=8)
    torch.testing.assert_close(weights(a.generator), weights(b.generator))


def test_scheduled_buffers_follow_the_images_seen(tmp_path):
    module = game(scheduled={"generator.level": Linear(0.0, 1.0, last=64)})
    fit(module, tmp_path, images=40)
    assert module.generator.level == pytest.approx(32 / 64)
    assert module.average.average.level == module.generator.level
    with pytest.raises(ValueError, match=r"generator\.depth"):
        game(scheduled={"generator.depth": Constant(1)})


def test_optimizer_options_follow_the_images_seen(tmp_path):
    schedules = {"generator.lr": Linear(0.0, 1.0, last=64), "discriminator.beta2": Constant(0.5)}
    module = game(optimizer_schedules=schedules)
    trainer = fit(module, tmp_path, images=40)
    discriminator, generator = trainer.optimizers
    assert generator.param_groups[0]["lr"] == pytest.approx(0.5)
    assert discriminator.param_groups[0]["betas"] == (0.0, 0.5)
    with pytest.raises(ValueError, match="momentum"):
        fit(game(optimizer_schedules={"generator.momentum": Constant(1)}), tmp_path / "wrong")
    with pytest.raises(ValueError, match="painter"):
        game(optimizer_schedules={"painter.lr": Constant(1)})


def test_clipping_bounds_the_norm_of_the_players_gradient(tmp_path):
    module, norms = game(clip_gradients=1e-3), []
    original = module.on_before_optimizer_step

    def hook(optimizer):
        original(optimizer)
        norms.append(torch.cat([p.grad.flatten() for g in optimizer.param_groups for p in g["params"]]).norm())

    module.on_before_optimizer_step = hook
    fit(module, tmp_path, images=16)
    assert len(norms) == 4 and all(n <= 1.001e-3 for n in norms)


def test_a_players_turn_leaves_no_gradient_in_the_other(tmp_path):
    module = game()
    original = module.finish_turn

    def check(player, optimizer):
        other = {"generator": "discriminator", "discriminator": "generator"}[player]
        before = [None if p.grad is None else p.grad.clone() for p in getattr(module, other).parameters()]
        original(player, optimizer)
        if player == "discriminator":
            assert all(b is None for b in before)

    module.finish_turn = check
    fit(module, tmp_path, images=8)


def test_bf16_trains_with_penalties_in_float32(tmp_path):
    module, dtypes = game(discriminator_terms={"r1": R1(), "gp": GradientPenalty()}), []
    original = module.losses

    def losses(player, step, due):
        found = original(player, step, due)
        dtypes.extend(x.dtype for x in (*found.values(), *step.fake_verdict.logits))
        return found

    module.losses = losses
    fit(module, tmp_path, precision="bf16-mixed")
    exact = game(discriminator_terms={"r1": R1(), "gp": GradientPenalty()})
    fit(exact, tmp_path / "exact")
    assert set(dtypes) == {torch.float32}
    torch.testing.assert_close(weights(module), weights(exact), rtol=0.05, atol=0.01)


def test_float16_trains_both_players_and_clips_what_has_been_unscaled(tmp_path):
    module, exact = (game(clip_gradients=0.5, discriminator_terms={"r1": R1()}) for _ in range(2))
    plugin = half()
    fit(module, tmp_path / "half", plugins=[plugin])
    fit(exact, tmp_path / "exact")
    assert module.images_seen == 40 and plugin.scaler.get_scale() == 2.0**10  # 5 batches of two steps, growing every 4
    torch.testing.assert_close(weights(module), weights(exact), rtol=0.05, atol=0.01)


class Headed(TinyDiscriminator):
    """A discriminator whose last layer is in float32 whatever the rest is in."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = self.coarse = None
        self.head = ProjectionHead(8 * 16)

    def forward(self, x, labels=None):
        return Verdict([self.head(nn.functional.softplus(self.conv(x)).flatten(1))])


def test_what_runs_in_float32_goes_back_in_float32(tmp_path):
    """Lightning's backward pass is under autocast too, which would round the last layer's gradient to 8 bits."""

    class OneSided(Wasserstein):
        def discriminator(self, real, fake):
            return nn.functional.softplus(-real).mean()

    module, found = game(discriminator=Headed(), objective=OneSided()), []
    original = module.finish_turn

    def keep(player, optimizer):
        found.append(module.discriminator.head.linear.weight.grad.clone())
        original(player, optimizer)

    module.finish_turn = keep
    fit(module, tmp_path, images=8, precision="bf16-mixed")
    assert not torch.equal(found[0], found[0].bfloat16().float())


def test_compiled_networks_train_the_same_and_penalties_run_them_as_they_are(tmp_path, monkeypatch):
    """With a backend that needs no compiler of C; it too refuses to be derived twice."""
    compiled, compile_in_place = [], torch.nn.Module.compile

    def compile_(network):
        compiled.append(type(network).__name__)
        compile_in_place(network, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    terms = {"r1": lambda: R1(every=2), "gp": lambda: GradientPenalty(every=3)}
    fast, plain = (
        game(discriminator_terms={name: make() for name, make in terms.items()}, compile=chosen)
        for chosen in (True, False)
    )
    fit(fast, tmp_path / "fast", images=48)
    fit(plain, tmp_path / "plain", images=48)
    assert compiled == ["TinyGenerator", "TinyDiscriminator"]
    assert list(fast.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-5, atol=1e-7)


def test_labels_must_suit_the_networks():
    with pytest.raises(ValueError, match="conditional is True"):
        game(generator=TinyGenerator(), discriminator=TinyDiscriminator(), conditional=True)
    with pytest.raises(ValueError, match="conditional is False"):
        game(generator=TinyGenerator(label_dim=3))


def test_samples_depend_on_the_seed_alone(tmp_path):
    module = game(conditional=True)
    fit(module, tmp_path, images=16)
    alone = module.sample(torch.tensor([5]))
    torch.testing.assert_close(module.sample(torch.arange(8))[5:6], alone)
    assert not torch.equal(module.sample(torch.tensor([6])), alone)
    labels = torch.eye(3)
    assert not torch.equal(*module.sample(torch.tensor([5, 5]), labels[:2]))
    with pytest.raises(ValueError, match="truncation"):
        module.sample(torch.tensor([5]), truncation_psi=0.5)


def test_sampling_and_previewing_leave_training_untouched(tmp_path):
    quiet, noisy = game(normalized=True), game(normalized=True)
    original = noisy.training_step

    def step(batch, batch_idx):
        original(batch, batch_idx)
        noisy.preview(batch)

    noisy.training_step = step
    fit(quiet, tmp_path / "a"), fit(noisy, tmp_path / "b")
    assert torch.equal(weights(quiet), weights(noisy))


def test_callbacks_hear_of_backward_passes_and_change_nothing_by_listening(tmp_path):
    class Listener(Callback):
        before, after = 0, 0

        def on_before_backward(self, trainer, pl_module, loss):
            self.before += 1

        def on_after_backward(self, trainer, pl_module):
            self.after += 1

    alone, heard, listener, own = game(), game(), Listener(), game()
    fit(alone, tmp_path / "a"), fit(heard, tmp_path / "b", callbacks=[Run(40, validate_every=0), listener])
    assert (alone.heard, heard.heard) == (False, True)
    assert listener.before == listener.after == sum(heard.turns.values()) > 0
    assert torch.equal(weights(alone), weights(heard))
    passes = []
    own.__class__ = type("Hooked", (type(own),), {"on_after_backward": lambda self: passes.append(self.images_seen)})
    fit(own, tmp_path / "c")
    assert len(passes) == sum(own.turns.values())


def test_average_makes_the_samples(tmp_path):
    module = game()
    fit(module, tmp_path)
    seeds = torch.arange(4)
    before = module.sample(seeds)
    with torch.no_grad():
        for p in module.generator.parameters():
            p.zero_()
    assert torch.equal(module.sample(seeds), before)
    assert copy.deepcopy(game(average_half_life=None)).average is None


def test_bytes_become_floats_in_the_right_range():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_a_term_that_is_turned_off_is_no_longer_logged(tmp_path):
    module = game(discriminator_terms={"r1": R1(Steps({0: 0.1, 16: 0.0}))})
    fit(module, tmp_path, images=16)
    assert "discriminator/r1" in module.latest
    fit(module, tmp_path, images=24)
    assert module.images_seen == 24 and "discriminator/r1" not in module.latest
    assert "discriminator/adversarial" in module.latest


def test_nothing_is_logged_where_the_trainer_is_told_so(tmp_path):
    trainer = fit(game(), tmp_path, images=16, log_every_n_steps=0)
    assert not [name for name in trainer.callback_metrics if name.startswith("discriminator")]
