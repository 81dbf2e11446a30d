"""Half precision, compiled networks and recomputing change how a run is computed, and not what comes of it."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_avatars import shipped
from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial, LatentStep
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.families.base import FaceModule
from lightning_avatars.families.boltzmann import DeepBeliefNetwork
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.matching import match_data
from lightning_avatars.networks.base import Discriminator
from lightning_avatars.networks.boltzmann import BernoulliUnits, DeepBelief
from lightning_avatars.networks.convolutional import ConvolutionalAutoencoder
from lightning_avatars.networks.dcgan import DCGANDiscriminator
from lightning_avatars.networks.layers.normalization import LayerNorm2d
from lightning_avatars.networks.r3gan import R3GANDiscriminator
from lightning_avatars.networks.recognizer import RecognitionNet
from lightning_avatars.objectives.likelihoods import Gaussian
from lightning_avatars.schedules import Steps
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.base import Term
from lightning_avatars.terms.gradients import R1, R2, GradientPenalty
from tests.conf.adversarial_autoencoders import tiny_vqgan, vqgan_game
from tests.conf.faults import equal, training_state
from tests.conf.tiny import TinyDiscriminator, TinyFaces, TinyGenerator
from tests.conf.training import fit, game, weights
from tests.conf.translation import data_for, paired_game
from tests.conf.words import prior

GANS = ["vaegan"] + [  # of quantised models rounding changes words, and so losses, at once
    name
    for name in shipped.names("model")
    if "class_path: lightning_avatars.families.adversarial.Adversarial" in shipped.find(name, "model").read_text()
]
# losses that are small, or differences of scores: how far off they are depends on how the processor rounds bfloat16
FAR = {"infogan": 0.15, "wgan_gp_resnet": 0.3}
FAST = ("stylegan1", "stylegan3")  # learn by rates of 1e-2, and in 8 turns make a fifth of a loss of what was rounded
COMPILERS = [name for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name]
HAS_COMPILER = any(map(shutil.which, COMPILERS))


def half() -> MixedPrecision:
    """16-mixed with its scaler, which on a CPU Lightning would silently make bf16-mixed."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=4))


PRECISIONS = {
    "float32": lambda: {},
    "bfloat16": lambda: {"precision": "bf16-mixed"},
    "float16": lambda: {"plugins": [half()]},
}


def shipped_game(name: str) -> tuple[Adversarial, FaceData]:
    """A shipped model, tiny, the same weights every time, and data of its size."""
    torch.manual_seed(0)
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(FaceModule, "model")
    parser.add_class_arguments(FaceData, "data")
    width = {"gan": 64}.get(name, 8)
    narrow = [f"--model.init_args.{player}.init_args.width={width}" for player in ("generator", "discriminator")]
    tiny = ["--data.dataset=tests.conf.tiny.TinyFaces", "--data.resolution=16", "--data.batch_size=8"]
    config = parser.parse_args(["--model", str(shipped.find(name, "model")), *narrow, *tiny])
    match_data(config.model, config.data)
    made = parser.instantiate_classes(config)
    return made.model, made.data


def losses_of(name: str, folder: Path, images: int, **arguments: object) -> tuple[Adversarial, dict[str, float]]:
    """Train a shipped model and return it with its last losses."""
    module, data = shipped_game(name)
    trainer = Trainer(
        default_root_dir=folder, max_epochs=-1, logger=False, enable_model_summary=False, enable_progress_bar=False,
        use_distributed_sampler=False, check_val_every_n_epoch=None, val_check_interval=1_000_000, accelerator="cpu",
        num_sanity_val_steps=0, limit_val_batches=0, devices=1, callbacks=[Run(images, 0, 0)], **arguments,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, {key: float(value) for key, value in module.latest.items()}


@pytest.mark.parametrize("name", GANS)
def test_every_shipped_gan_trains_in_half_precision_much_as_in_float32(tmp_path, name):
    images = 32 if name in FAST else 64  # 4 or 8 turns
    exact, expected = losses_of(name, tmp_path, images)
    for precision in ("bfloat16", "float16"):
        module, found = losses_of(name, tmp_path, images, **PRECISIONS[precision]())
        assert found == pytest.approx(expected, rel=FAR.get(name, 0.06), abs=0.002)
        assert (weights(module) - weights(exact)).norm() < 0.03 * weights(exact).norm()
        assert {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_an_infinite_loss_costs_one_player_one_step_and_halves_the_scale(tmp_path, player):
    module, plugin = game(), half()
    plugin.scaler.set_growth_interval(1000)
    game_loss, turn, moved = module.adversarial_loss, module.turn, {}

    def turned(whose, *arguments):
        before = weights(getattr(module, whose))
        step = turn(whose, *arguments)
        moved[module.images_seen, whose] = not torch.equal(weights(getattr(module, whose)), before)
        return step

    module.turn = turned
    module.adversarial_loss = lambda whose, step: (
        game_loss(whose, step) * (float("inf") if (whose, module.images_seen) == (player, 16) else 1)
    )
    fit(module, tmp_path, plugins=[plugin])
    assert len(moved) == 10 and [turn for turn, did in moved.items() if not did] == [(16, player)]
    assert plugin.scaler.get_scale() == 2.0**7 and torch.isfinite(weights(module)).all()


def compile_without_a_compiler(monkeypatch) -> None:
    """Let networks be compiled by a backend that needs no compiler of C; it too refuses to be derived twice."""
    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compile_in_place(network, backend="aot_eager"))


WAYS = {
    "bfloat16": PRECISIONS["bfloat16"],
    "float16": PRECISIONS["float16"],
    "compiled": lambda: {"compile": True},
    "recomputed": lambda: {"recompute": ["discriminator.conv", "generator.image"]},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch, way):
    """Bit for bit; of float16, the scale and how long it has not overflown too, of which both have changed by then."""
    compile_without_a_compiler(monkeypatch)

    def go(folder: str, images: int, **where: Path) -> Trainer:
        chosen = WAYS[way]()
        own = {name: chosen.pop(name) for name in ("compile", "recompute") if name in chosen}
        module = game(discriminator_terms={"r1": R1(0.5, every=2)}, **own)
        return fit(module, tmp_path / folder, images, **chosen, **where)

    whole = go("whole", 72)
    go("half", 40)
    resumed = go("half", 72, ckpt_path=tmp_path / "half/checkpoints/images_000000040.ckpt")
    ends = [training_state(tmp_path / f"{folder}/checkpoints/images_000000072.ckpt") for folder in ("whole", "half")]
    assert equal(*ends)
    state = whole.precision_plugin.state_dict()
    assert resumed.precision_plugin.state_dict() == state
    if way == "float16":
        assert state["scale"] == 2.0**12 and state["_growth_tracker"] == 2  # 18 steps, growing every 4


FAMILIES = {
    "gan": game,
    "vae": lambda: Autoencoding(ConvolutionalAutoencoder(8, width=4), Gaussian()),
    "vqvae": lambda: Autoencoding(tiny_vqgan(), Gaussian()),
    "vqgan": vqgan_game,
    "prior": prior,
    "dbn": lambda: DeepBeliefNetwork(DeepBelief(8, 3, (12,), BernoulliUnits), Steps({0: 0.0})),
    "pix2pix": paired_game,
    "recognition": lambda: Recognition(RecognitionNet(16, 3, TinyFaces().label_names, width=4)),
}


@pytest.mark.parametrize("family", ["vae", "vqvae", "prior", "dbn"])
def test_likelihoods_are_trained_in_bfloat16_and_a_resumed_run_is_the_same_run(tmp_path, family):
    def go(folder: str, images: int, precision: str = "bf16-mixed", **where: Path) -> FaceModule:
        torch.manual_seed(0)
        module = FAMILIES[family]()
        fit(module, tmp_path / folder, images, save_every=40, precision=precision, **where)
        return module

    whole, first, exact = go("whole", 72), go("half", 40), go("exact", 72, "32-true")
    go("half", 72, ckpt_path=tmp_path / "half/checkpoints/images_000000040.ckpt")
    ends = [training_state(tmp_path / f"{folder}/checkpoints/images_000000072.ckpt") for folder in ("whole", "half")]
    assert equal(*ends) and not torch.equal(weights(whole), weights(first))
    assert torch.equal(weights(whole), weights(exact)) == (family == "dbn"), "whose probabilities are not rounded"
    assert whole.latest and all(math.isfinite(value) for value in whole.latest.values())
    assert all(t.isfinite().all() for t in whole.parameters())
    assert {t.dtype for t in (*whole.parameters(), *whole.buffers()) if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_half_precision_which_averages_could_not_move_are_refused(tmp_path, family, precision):
    module = FAMILIES[family]()
    module.training_step = lambda *_: pytest.fail("training has started")
    with pytest.raises(ValueError, match=rf"trainer\.precision {precision} rounds the weights .* bf16-mixed"):
        fit(module, tmp_path, data=data_for("paired") if family == "pix2pix" else None, precision=precision)


def test_the_command_line_refuses_it_before_it_looks_at_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_avatars.cli.match_data", lambda *_: pytest.fail("the data were looked at"))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--model", "vae", "--data", "avatars32", "--trainer.precision", "bf16-true"])
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert stop.value.code == 2 and "trainer.precision bf16-true rounds the weights themselves" in error


DISCRIMINATORS = {
    "dcgan": lambda: DCGANDiscriminator(16, width=4, normalization=LayerNorm2d),
    "r3gan": lambda: R3GANDiscriminator(16, width=8),
    "tiny": lambda: TinyDiscriminator(16),
}


def judge(name: str) -> Discriminator:
    """Make a discriminator, the same every time; layers that begin at zero would hide others from their gradients."""
    torch.manual_seed(0)
    network = DISCRIMINATORS[name]()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    return network


def gradients(module: Adversarial, term: Term | None) -> list[Tensor]:
    """The discriminator's gradients in a turn on four pictures of noise, with a term or without one."""
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    draws = Draws(0, 0, 4, 0, 4, torch.device("cpu"))
    differentiates = frozenset(term.differentiates) if term is not None else frozenset()
    step = LatentStep(module, {"image": image, "labels": torch.zeros(4, 0)}, draws, "discriminator", differentiates)
    module.zero_grad()
    loss = module.adversarial_loss("discriminator", step)
    (loss if term is None else loss + term(step)).backward()
    return [p.grad for p in module.discriminator.parameters() if p.grad is not None]


def check_gradients(name: str, backend: str) -> None:
    """Compare turns of a compiled discriminator, with penalties and without, with those of the same one as it is."""
    fast, plain = (game(discriminator=judge(name), generator=TinyGenerator(16)) for _ in range(2))
    fast.discriminator.compile(backend=backend)
    for term in (None, R1(), R2(), GradientPenalty()):
        found, expected = gradients(fast, term), gradients(plain, term)
        assert all(gradient.any() for gradient in expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["dcgan", "r3gan"])
def test_penalties_of_compiled_discriminators_have_eagers_gradients(name):
    check_gradients(name, "aot_eager")


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler, which compiled networks need on a CPU")
def test_penalties_of_discriminators_compiled_to_machine_code_have_eagers_gradients():
    check_gradients("tiny", "inductor")
