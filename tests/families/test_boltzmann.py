"""Machines learn one after the other, go on where they stopped, and are the same on any number of processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD

from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.boltzmann import DeepBeliefNetwork
from lightning_avatars.images import to_float
from lightning_avatars.networks.boltzmann import BernoulliUnits, DeepBelief
from lightning_avatars.schedules import Linear, Steps
from lightning_avatars.seeding import Draws
from lightning_avatars.strategies import PhaseDDP
from lightning_avatars.warm_start import start_from
from tests.conf.processes import join, start_two
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, weights

TURNS = {0: 0, 48: 1, 96: 2}  # images at which the second machine, and then fine-tuning, begin
DEVICE = torch.device("cpu")


def dbn(turns=TURNS, visible=BernoulliUnits, widths=(12, 10), rate=0.05, momentum=0.9, **options):
    """A tiny network, the same weights every time."""
    torch.manual_seed(0)
    options = {"average_half_life": 50, "annealing_steps": 20, "sampling_steps": 5} | options
    optimizer = partial(SGD, lr=rate, momentum=momentum, weight_decay=0.01)
    return DeepBeliefNetwork(DeepBelief(8, 3, widths, visible), Steps(turns), optimizer, **options)


KINDS = {
    "divergence": partial(dbn, steps=2),
    "persistent": partial(dbn, chains=6),
    "gaussian": partial(dbn, visible=None, chains=5, average_half_life=None),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("stop", [40, 72, 120])  # in the midst of each machine, and of fine-tuning
def test_a_resumed_run_is_the_same_run(tmp_path, name, stop):
    whole, first, second = (KINDS[name]() for _ in range(3))
    fit(whole, tmp_path / "whole", images=144)
    fit(first, tmp_path / "part", images=stop)
    fit(second, tmp_path / "part", images=144, ckpt_path=tmp_path / f"part/checkpoints/images_{stop:09d}.ckpt")
    assert torch.equal(weights(second), weights(whole))
    assert second.level == whole.level == 2
    if whole.chains:
        assert 0 < whole.chains_1.float().mean() < 1, "the chains have moved"


def work(rank: int, port: int, folder: Path) -> None:
    """Train every kind as one of two processes and keep the weights."""
    join(rank, port)
    for name, make in KINDS.items():
        module = make()
        fit(module, folder / f"{name}_{rank}", 144, devices=2, strategy=PhaseDDP())
        torch.save(weights(module), folder / f"{name}_{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    start_two(work, folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_equal_one(folder, tmp_path, name):
    alone = KINDS[name]()
    start = weights(alone)
    fit(alone, tmp_path, 144)
    ranks = [torch.load(folder / f"{name}_{rank}.pt") for rank in range(2)]
    assert torch.equal(*ranks), "every weight and every chain must be equal on all processes"
    assert (weights(alone) - start).abs().max() > 1e-3
    torch.testing.assert_close(ranks[0], weights(alone), rtol=1e-5, atol=1e-5)


def test_machines_train_one_after_the_other(tmp_path):
    seen = []

    class Watched(DeepBeliefNetwork):
        def losses(self, images, draws):
            found = super().losses(images, draws)
            before = {name for name, p in self.network.named_parameters() if p.grad is not None}
            assert not before
            sum(found.values()).backward(retain_graph=True)
            trained = {name.rpartition(".")[0] for name, p in self.network.named_parameters() if p.grad is not None}
            self.zero_grad()
            seen.append((self.level, int(self.network.depth), trained, set(found)))
            return found

    torch.manual_seed(0)
    fit(Watched(DeepBelief(8, 3, (12, 10), BernoulliUnits), Steps(TURNS)), tmp_path, images=112)
    levels = [level for level, *_ in seen]
    assert levels == [0] * 6 + [1] * 6 + [2] * 2
    alone = [(depth, trained, losses) for level, depth, trained, losses in seen if level < 2]
    for i, (depth, trained, losses) in enumerate(alone):
        machine = f"machines.{i // 6}"
        assert depth == i // 6 + 1 and trained == {machine, f"{machine}.visible"} and losses == {"contrast"}
    everything = {"machines.0", "machines.0.visible", "machines.1", "machines.1.visible", "recognition.0"}
    assert seen[-1][1:] == (2, everything, {"contrast", "wake", "sleep"})


def test_a_machine_is_frozen_as_its_average_with_its_own_weights_going_up(tmp_path):
    module = dbn(average_half_life=1_000)
    fit(module, tmp_path / "first", images=48)
    average = module.average.average.machine(0).weight.clone()
    assert not torch.equal(average, module.network.machine(0).weight)
    fit(module, tmp_path / "second", images=56)
    assert torch.equal(module.network.machine(0).weight, average)
    assert torch.equal(module.network.recogniser(0).weight, average.T)
    assert torch.equal(module.average.average.recogniser(0).weight, average.T)


def test_first_biases_are_the_rates_of_the_data(tmp_path):
    module = dbn(chains=4)
    fit(module, tmp_path, images=8)
    store = module.trainer.datamodule.store
    pictures = to_float(torch.from_numpy(store.read(store.split("train")))).flatten(1)
    rate = ((pictures + 1) / 2).sum(0).add(0.5) / (len(pictures) + 1)
    torch.testing.assert_close(module.network.machine(0).visible.base, rate.logit())


def test_learning_makes_pictures_likelier_and_says_by_how_much(tmp_path):
    """The exact likelihood of one machine with ten hidden units, which can be enumerated, rises as was reported."""
    options = {"average_half_life": None, "annealing_steps": 300, "rate": 0.05, "momentum": 0.0}
    module = dbn({0: 0}, widths=[10], chains=32, **options)
    data = FaceData(TinyFaces(), resolution=8, batch_size=16)
    shown = []
    for images in (16, 3_200):
        path = tmp_path / "checkpoints/images_000000016.ckpt" if shown else None
        trainer = fit(module, tmp_path, images, path, data=data, save_every=10_000)
        shown.append(trainer.validate(module, data, verbose=False)[0])
        machine = module.topmost()
        h = torch.tensor([[i >> j & 1 for j in range(10)] for i in range(1024)], dtype=torch.float64)
        drive = machine.visible.bias + machine.drive(h)
        exact = torch.logsumexp(h @ machine.hidden_bias + torch.nn.functional.softplus(drive).sum(1), 0)
        error = shown[-1]["val/log_partition_error"]
        assert abs(shown[-1]["val/log_partition"] - float(exact)) < max(4 * error, 0.01)
        likelihood = -shown[-1]["val/free_energy"] - shown[-1]["val/log_partition"]
        assert shown[-1]["val/log_likelihood"] == pytest.approx(likelihood, abs=1e-3)
    assert shown[1]["val/log_likelihood"] > shown[0]["val/log_likelihood"] + 8
    assert shown[1]["val/reconstruction_error"] < shown[0]["val/reconstruction_error"] / 2


def test_likelihoods_are_logged_for_held_out_pictures_at_every_depth(tmp_path):
    module = dbn(chains=4)
    for images in (8, 56, 104):
        trainer = fit(module, tmp_path / str(images), images)
        (found,) = trainer.test(module, trainer.datamodule, verbose=False)
        assert found["test/log_likelihood"] < 0 and found["test/log_partition_error"] < 2
        assert set(found) == {
            f"test/{name}" for name in (
                "free_energy", "free_energy_gap", "reconstruction_error", "log_partition", "log_partition_error",
                "log_likelihood",
            )
        }  # fmt: skip
        batch = {"image": torch.from_numpy(trainer.datamodule.store.read(trainer.datamodule.store.split("test")))}
        count = len(batch["image"])
        draws = Draws(0, 0, count, 0, count, DEVICE)
        weighed = module.log_weights(batch, 2, draws)
        assert weighed.shape == (count, 2)
        fresh = not torch.equal(weighed, module.log_weights(batch, 2, draws))
        assert fresh == (images > 8), "one machine is exact, two draw other hidden states"
        assert float(weighed.mean()) == pytest.approx(found["test/log_likelihood"], abs=15)
    assert module.likelihood_facts()["of"] == "bits"


def test_training_does_not_depend_on_validations(tmp_path):
    modules = [dbn(chains=4), dbn(chains=4)]
    for every, module in zip((0, 24), modules, strict=True):
        run = Run(images=112, validate_every=every, save_every=0)
        trainer = Trainer(
            default_root_dir=tmp_path, max_epochs=-1, logger=False, enable_model_summary=False, accelerator="cpu",
            use_distributed_sampler=False, check_val_every_n_epoch=None, val_check_interval=1_000_000, devices=1,
            num_sanity_val_steps=0, callbacks=[run], enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(module, FaceData(TinyFaces(), resolution=8, batch_size=8))
    assert torch.equal(weights(modules[0]), weights(modules[1]))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("images", [24, 128])
def test_a_seed_is_the_same_image_in_any_batch(tmp_path, name, images):
    module = KINDS[name](sampling_steps=20)
    fit(module, tmp_path, images)
    together = module.sample(torch.arange(40))
    assert together.shape == (40, 3, 8, 8) and together.isfinite().all()
    alone = torch.cat([module.sample(torch.tensor([seed])) for seed in range(40)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    assert together.std(0).max() > 1e-3
    latents = module.latents(torch.arange(40))
    assert set(latents.unique().tolist()) == {0, 1}
    assert latents.shape == (40, 12 if images == 24 else 10)


def test_exported_tensors_make_the_same_samples(tmp_path):
    module, other = dbn(chains=4), dbn(chains=4)
    fit(module, tmp_path, images=104)
    other.load_sampling_state(module.sampling_state())
    assert torch.equal(other.sample(torch.arange(8)), module.sample(torch.arange(8)))


def test_reconstructions_have_the_pictures_as_targets(tmp_path):
    module = dbn(chains=4)
    trainer = fit(module, tmp_path, images=104)
    batch = next(iter(trainer.datamodule.val_dataloader()))
    (found,) = module.evaluation_sets(batch).values()
    assert found.images.shape == found.target.shape and torch.equal(found.target, batch["image"])
    assert {name: len(images) for name, images in module.preview(batch).items()} == {
        "samples": 64, "reconstructions": 2 * len(batch["image"])
    }  # fmt: skip
    latents = module.encode(to_float(batch["image"]))
    assert torch.equal(module.decode(latents), found.images)


def test_options_of_the_optimizer_follow_images_and_biases_do_not_decay(tmp_path):
    module = dbn(optimizer_schedules={"lr": Linear(0.1, 0.0, last=80), "weight_decay": Linear(0.2, 0.0, last=80)})
    trainer = fit(module, tmp_path, images=48)
    decaying, biases = trainer.optimizers[0].param_groups
    assert decaying["lr"] == biases["lr"] == pytest.approx(0.05)
    assert decaying["weight_decay"] == pytest.approx(0.1) and biases["weight_decay"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"chains": -1}, "chains must be at least 0, got -1"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1, got 0"),
        ({"annealing_chains": 1}, "annealing_chains must be at least 2, got 1"),
        ({"turns": {0: 1}}, "begins with machine 1, but the first one to train is 0"),
        ({"turns": {0: 0, 16: 2}}, r"layer goes from 0 to 2 after 16 images"),
        ({"turns": {0: 0, 8: 1, 16: 0}}, r"from 1 to 0 after 16 images"),
        ({"turns": {0: 0, 8: 1}, "widths": (12,)}, r"from 0 to 1 after 8 images, .* up to 0 \(1 machines"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        dbn(**options)


def test_a_schedule_that_jumps_over_a_machine_is_an_error(tmp_path):
    module = dbn()
    module.layer = Linear(0.0, 2.0, first=8, last=16)
    with pytest.raises(ValueError, match=r"layer goes from 0 to 2 after 16 images, .* rises by ones up to 2"):
        fit(module, tmp_path)


def test_a_run_that_starts_from_a_trained_network_begins_with_its_first_machine(tmp_path):
    """Standardised pixels must not be standardised again, and samples must come from the machine that trains."""
    make = partial(KINDS["gaussian"], average_half_life=50)
    trained, anew, further = make(), make(), make()
    fit(trained, tmp_path / "trained", 104)
    fit(anew, tmp_path / "anew", 8)
    start_from(further, tmp_path / "trained/checkpoints/images_000000104.ckpt")
    assert int(further.network.depth) == 2
    fit(further, tmp_path / "further", 8)
    assert int(further.sampler.depth) == int(further.network.depth) == 1
    units, expected = further.network.machine(0).visible, anew.network.machine(0).visible
    torch.testing.assert_close(units.centre, expected.centre)
    torch.testing.assert_close(units.deviation, expected.deviation)
