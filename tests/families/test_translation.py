"""Translation: sameness, memory, and what all games of it can do and refuse."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_avatars.checkpoints import export_weights, load_module, read_checkpoint
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.networks.per_domain import PerDomainDiscriminator
from lightning_avatars.pool import HistoryPool
from lightning_avatars.terms.cycle import Cycle, Identity
from lightning_avatars.terms.paths import PathLength
from lightning_avatars.terms.reconstruction import L1
from tests.conf.tiny import TinyFaces
from tests.conf.training import TINY, fit, game, weights
from tests.conf.translation import (
    GAMES,
    TinyDomains,
    TinyJudge,
    TinyPairs,
    TinyTranslator,
    cut_game,
    cycle_game,
    data_for,
    paired_game,
    picture,
    star_game,
    turn,
)


@pytest.mark.parametrize("name", GAMES)
def test_a_resumed_run_is_the_same_run(tmp_path, name):
    whole, first, second = (GAMES[name]() for _ in range(3))
    fit(whole, tmp_path / "whole", 64, data=data_for(name))
    fit(first, tmp_path / "half", 32, data=data_for(name))
    half = tmp_path / "half/checkpoints/images_000000032.ckpt"
    fit(second, tmp_path / "half", 64, ckpt_path=half, data=data_for(name))
    assert torch.equal(weights(second), weights(whole)) and second.turns == whole.turns
    assert not torch.equal(weights(whole), weights(GAMES[name]()))


class OtherPairs(TinyPairs):
    """Pairs one of whose parts is called otherwise."""

    @property
    def mask_names(self):
        return ["nothing", "disc", "star"]


class OtherFaces(TinyFaces):
    """Faces one of whose labels is called otherwise."""

    @property
    def label_names(self):
        return ["colour=red", "colour=blue", "small"]


OTHERS = {
    "paired": (OtherPairs(), {}, r"label maps \(nothing, disc, heart\), but those of .* have nothing, disc, star"),
    "cycle": (
        TinyDomains(names=("dusk", "dawn")),
        {"names": ("dusk", "dawn")},
        r"domains \(night, day\), but those of .* have dusk, dawn: name data like that",
    ),
    "cut": (TinyDomains(names=("day", "night")), {}, r"domains \(night, day\), but those of .* have day, night"),
    "star": (OtherFaces(), {}, r"labels \(colour=red, colour=blue, large\), but .* have colour=red, .*, small"),
}


@pytest.mark.parametrize("name", GAMES)
def test_weights_are_not_used_on_data_of_another_kind(tmp_path, name):
    module, (dataset, given, message) = GAMES[name](), OTHERS[name]
    trainer = fit(module, tmp_path, 8, data=data_for(name))
    checkpoint, other = tmp_path / "checkpoints/images_000000008.ckpt", FaceData(dataset, resolution=8, batch_size=8)
    for stage in ("validate", "test", "predict"):
        getattr(trainer, stage)(module, data_for(name))
        with pytest.raises(ValueError, match=message):
            getattr(trainer, stage)(module, other)
        with pytest.raises(ValueError, match=message):
            getattr(trainer, stage)(GAMES[name](**given), other, ckpt_path=checkpoint)
    with pytest.raises(ValueError, match=message):
        fit(GAMES[name](**given), tmp_path, 16, ckpt_path=checkpoint, data=other)
    GAMES[name]().on_load_checkpoint(read_checkpoint(checkpoint))  # without a trainer there are no data to compare


def test_domains_are_alike_whether_they_have_label_maps_or_not():
    module, data = GAMES["cycle"](), data_for("cycle", ready=True)
    state = module.get_extra_state() | {"domain_names": ["night", "day"], "mask_names": ["nothing", "disc"]}
    module.check_alike(data, state)


@pytest.mark.parametrize("name", GAMES)
def test_chunks_equal_the_whole_batch(tmp_path, name):
    whole, chunked = GAMES[name](), GAMES[name](micro_batch=2)
    fit(whole, tmp_path / "whole", 64, data=data_for(name)), fit(chunked, tmp_path / "chunked", 64, data=data_for(name))
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", GAMES)
def test_compiled_networks_train_the_same(tmp_path, name, monkeypatch):
    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compile_in_place(network, backend="aot_eager"))
    plain, compiled = GAMES[name](), GAMES[name](compile=True)
    fit(plain, tmp_path / "plain", 24, data=data_for(name)), fit(compiled, tmp_path / "comp", 24, data=data_for(name))
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", GAMES)
def test_memory_is_foretold_and_nothing_changes_by_it(tmp_path, name):
    module = GAMES[name]()
    fit(module, tmp_path, 16, data=data_for(name))
    before = weights(module)
    few, many = module.memory_need(8, 3, 8), module.memory_need(16, 3, 8)
    assert torch.equal(weights(module), before) and few.weights == many.weights
    assert many.activations > 1.8 * few.activations > 0


def test_what_was_said_to_one_player_is_forgotten_in_the_others_turn(tmp_path, monkeypatch):
    module, said, alive = paired_game(), [], []
    judge, make = type(module.discriminator).forward, module.turn

    def judged(network, *given):
        verdict = judge(network, *given)
        said.append(weakref.ref(verdict.features[0]))
        return verdict

    def turn(player, *given):
        alive.append((player, sum(feature() is not None for feature in said)))
        return make(player, *given)

    monkeypatch.setattr(type(module.discriminator), "forward", judged)
    module.turn = turn
    fit(module, tmp_path, 16, data=data_for("paired"))
    assert alive == [("discriminator", 0), ("generator", 0)] * 2


@pytest.mark.parametrize("name", GAMES)
def test_a_turn_reaches_every_parameter_of_its_player_and_no_other(name):
    module = GAMES[name]()
    for player, other in (("discriminator", "generator"), ("generator", "discriminator")):
        module.zero_grad()
        for p in module.discriminator.parameters():
            p.requires_grad_(player == "discriminator")
        step = turn(module, player)
        sum(module.losses(player, step, module.due(player)).values()).backward()
        named = getattr(module, player).named_parameters()
        idle = [key for key, p in named if p.grad is None or not p.grad.any()]
        assert idle == (["last.bias"] if name == "star" and player == "discriminator" else [])  # Wasserstein's cancels
        assert all(p.grad is None for p in getattr(module, other).parameters())


@pytest.mark.parametrize("name", GAMES)
def test_translations_come_from_averaged_weights_and_state_tells_all_that_they_need(tmp_path, name):
    module = GAMES[name]()
    fit(module, tmp_path, 16, data=data_for(name))
    other = GAMES[name]()
    other.load_state_dict(torch.load(next(tmp_path.rglob("*16.ckpt")), weights_only=True)["state_dict"])
    batch = next(iter(data_for(name, ready=True).val_dataloader()))
    for name_, found in module.evaluation_sets(batch).items():
        assert torch.equal(found.images, other.evaluation_sets(batch)[name_].images)
    made = module.evaluation_sets(batch)
    with torch.no_grad():
        for p in module.generator.parameters():
            p.zero_()
    assert torch.equal(next(iter(made.values())).images, next(iter(module.evaluation_sets(batch).values())).images)
    assert all(x.ndim == 5 and x.shape[2:] == (3, 8, 8) for x in module.preview(batch).values())
    assert not module.samples
    with pytest.raises(ValueError, match="use `lightning-avatars translate`"):
        module.sample(torch.arange(2))


def odd() -> FaceData:
    return FaceData(TinyPairs(), resolution=9, batch_size=8)


BAD_DATA = {
    "have neither a source nor a label map": (paired_game, lambda: FaceData(TinyFaces(), 8, 8)),
    "boundaries are those of label maps": (
        lambda: paired_game(2, boundaries=True), lambda: FaceData(TinyPairs(maps=False), 8, 8)
    ),
    "multiples of 2, but data.resolution is 9": (paired_game, odd),
    "goes between two domains, but tiny has none": (cycle_game, lambda: FaceData(TinyFaces(), 8, 8)),
    "networks are of the domains day, night, but tiny_domains has night, day": (
        lambda: cycle_game(names=["day", "night"]), lambda: FaceData(TinyDomains(), 8, 8)
    ),
    r"pool keeps images of \(3, 16, 16\), but the data's are \(3, 8, 8\)": (
        lambda: cycle_game(pool=HistoryPool(3, 16, 3, ["night", "day"])), lambda: FaceData(TinyDomains(), 8, 8)
    ),
    "has 3, dawn, night, day": (cut_game, lambda: FaceData(TinyDomains(names=("dawn", "night", "day")), 8, 6)),
    "attributes names 'beard': give groups of the data's labels, of colour, large": (
        lambda: star_game(attributes=["beard"]), lambda: FaceData(TinyFaces(), 8, 8)
    ),
    "attributes is empty": (lambda: star_game(attributes=[]), lambda: FaceData(TinyFaces(), 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_DATA)
def test_data_that_can_not_be_translated_are_refused_before_training(tmp_path, message):
    make, data = BAD_DATA[message]
    with pytest.raises(ValueError, match=message):
        fit(make(), tmp_path, data=data())
    assert not list(tmp_path.rglob("*.ckpt"))


BAD = {
    "augment would change images and not": lambda: paired_game(augment=nn.Identity()),
    "micro_batch must be even": lambda: cycle_game(micro_batch=3),
    "networks for each domain, but got a TinyTranslator": lambda: cycle_game(generator=TinyTranslator()),
    "use lightning_avatars.networks.per_domain.PerDomainDiscriminator": lambda: cycle_game(discriminator=TinyJudge()),
    "are given no labels": lambda: cycle_game(conditional=True),
    "domains are given no labels": lambda: cut_game(
        conditional=True, generator=TinyTranslator(label_dim=3), discriminator=TinyJudge(label_dim=3)
    ),
    "generators are to night, day and discriminators of day, night": lambda: cycle_game(
        discriminator=PerDomainDiscriminator(TinyJudge, ["day", "night"])
    ),
    "keeps images of both domains in one place": lambda: cycle_game(pool=HistoryPool(3, 8)),
    "only one way is learned": lambda: cut_game(pool=HistoryPool(2, 8)),
    "set conditional to true": lambda: star_game(
        conditional=False, generator=TinyTranslator(), discriminator=TinyJudge(),
        generator_terms={"cycle": Cycle()}, discriminator_terms={},
    ),
    "a Cycle needs a cycled in every turn, which PairedTranslation has not": lambda: paired_game(
        generator_terms={"cycle": Cycle()}
    ),
    "a L1 needs a target .* such as AdversarialAutoencoder or PairedTranslation": lambda: cycle_game(
        generator_terms={"l1": L1()}
    ),
    "a PathLength needs a latent .* such as Adversarial,": lambda: paired_game(generator_terms={"path": PathLength()}),
    "which Adversarial has not": lambda: game(generator_terms={"identity": Identity()}),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_parts_that_do_not_go_together_are_refused_at_construction(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_the_command_line_trains_it_without_samples_and_one_file_is_enough_to_translate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny, quiet = str(Path(__file__).parents[1] / "conf/tiny_cyclegan.yaml"), ["--trainer.logger", "false"]
    data = ["--data.dataset", "tests.conf.translation.TinyDomains"]
    judged = ["--reconstruction.enabled", "false", "--preview.every", "16"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* in the configuration, but the data has")
        main(["fit", "-c", TINY, "--model", tiny, *data, "--trainer.default_root_dir", "run", *quiet, *judged])
    sheet = Image.open("run/previews/day_to_night_000000064.png")
    assert sheet.size == (4 * 10 + 2, 3 * 10 + 2)  # four pictures of a batch, what became of them and back
    checkpoint = Path("run/checkpoints/images_000000064.ckpt")
    module = load_module(checkpoint)
    assert module.domain_names == ["night", "day"] and module.pool.count == 3
    export_weights(module, Path("weights.safetensors"))
    alone = load_module(Path("weights.safetensors"))
    batch = {"image": picture(3)}
    assert torch.equal(alone.translate(batch, to="day"), module.translate(batch, to="day"))
    with pytest.raises(SystemExit):
        main(["sample", str(checkpoint)])
    assert "use `lightning-avatars translate`" in " ".join(capsys.readouterr().err.split())
