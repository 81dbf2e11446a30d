"""Averages of autoencoders and of what their likelihoods learn, and weights in pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from lightning_avatars.checkpoints import read_checkpoint
from lightning_avatars.images import to_float
from lightning_avatars.objectives.likelihoods import DiscretizedLogistic, Gaussian
from lightning_avatars.warm_start import start_from
from tests.conf.autoencoders import batch, draws, module
from tests.conf.training import fit, weights


def test_the_average_follows_steps_with_its_half_life_in_images(tmp_path):
    learner = module(average_half_life=1e-9)
    fit(learner, tmp_path, 16)
    for mine, averaged in zip(learner.network.parameters(), learner.sampler.parameters(), strict=True):
        torch.testing.assert_close(mine, averaged)
    slow = module(average_half_life=1e9)
    slow.images_before = 10**12
    start = weights(slow.sampler)
    fit(slow, tmp_path / "slow", 16)
    torch.testing.assert_close(weights(slow.sampler), start, rtol=0, atol=1e-6)


def test_files_older_than_averages_of_likelihoods_are_read_as_if_they_had_just_begun():
    learner, other = module(), module()
    torch.nn.init.constant_(learner.likelihood.raw, 0.3)
    state = {name: value for name, value in learner.state_dict().items() if not name.startswith("likelihood_average")}
    other.load_state_dict(state)
    assert other.likelihood_average.average.raw.item() == other.likelihood.raw.item() == pytest.approx(0.3)
    with pytest.raises(RuntimeError, match=r"likelihood\.raw"):
        other.load_state_dict({name: value for name, value in state.items() if name != "likelihood.raw"})


LEARNED = {Gaussian: "raw", DiscretizedLogistic: "log_scale"}


@pytest.mark.parametrize("likelihood", LEARNED)
def test_runs_of_old_whose_likelihoods_learned_scalars_go_on_with_the_same_bits(tmp_path, likelihood):
    whole, first, second, started = (module(likelihood()) for _ in range(4))
    fit(whole, tmp_path / "whole", 96)
    fit(first, tmp_path / "first", 48)
    saved = read_checkpoint(tmp_path / "first/checkpoints/images_000000048.ckpt")
    names = [name for name in saved["state_dict"] if name.endswith(LEARNED[likelihood])]
    assert len(names) == 2, "the average's too"
    saved["state_dict"] |= {name: saved["state_dict"][name].squeeze(0) for name in names}
    moments = list(saved["optimizer_states"][0]["state"].values())[-1]
    moments |= {name: value.squeeze() for name, value in moments.items()}
    assert moments["exp_avg"].ndim == 0
    torch.save(saved, tmp_path / "old.ckpt")
    fit(second, tmp_path / "second", 96, ckpt_path=tmp_path / "old.ckpt")
    assert torch.equal(weights(second), weights(whole)) and not torch.equal(weights(first), weights(whole))
    start_from(started, tmp_path / "old.ckpt")
    assert torch.equal(weights(started), weights(first))


@pytest.mark.parametrize("likelihood", LEARNED)
def test_weights_and_what_the_likelihood_learns_can_be_cut_into_pieces(tmp_path, likelihood):
    learner = module(likelihood(), average_half_life=None, channels_last=False)
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for part in (learner.network, learner.likelihood):
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(learner.likelihood, "log_prob")
        optimizer, image = learner.configure_optimizers(), learner.target(batch(), draws())
        before = weights_of_pieces(learner)
        (-learner.likelihood.log_prob(learner.network(image).output, image).mean()).backward()
        optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(weights_of_pieces(learner), before, strict=True)]
    finally:
        dist.destroy_process_group()
    assert moved[-1] and sum(moved) > 10


def weights_of_pieces(learner):
    """Copy this process's pieces of all parameters, those of the likelihood last."""
    return [p.to_local().detach().clone() for p in learner.parameters()]


def test_an_average_of_weights_in_pieces_is_refused_before_they_are_cut():
    learner = module()
    learner._trainer = SimpleNamespace(strategy=FSDPStrategy(), precision="32-true")
    with pytest.raises(ValueError, match="FSDPStrategy cuts weights into pieces, which an average can't follow"):
        learner.setup("fit")
    learner.setup("test")


@pytest.mark.parametrize(("likelihood", "name"), LEARNED.items())
def test_what_the_likelihood_learns_is_averaged_as_the_network_is_and_scores_are_of_the_average(
    tmp_path, likelihood, name
):
    learner, seen = module(likelihood(), average_half_life=20), []
    learner.images_before = 10**6
    step = learner.optimizer_step

    def noted(*arguments):
        step(*arguments)
        seen.append(getattr(learner.likelihood, name).item())

    learner.optimizer_step = noted
    average = getattr(likelihood(), name).item()
    fit(learner, tmp_path, 40)
    for value in seen:
        average += (1 - 0.5 ** (8 / 20)) * (value - average)
    found = learner.sampling_state()[f"likelihood.{name}"]
    assert len(seen) == 5 and float(found) == pytest.approx(average, abs=1e-6) and abs(seen[-1] - average) > 1e-3
    averaged, image = likelihood(), to_float(batch()["image"])
    averaged.load_state_dict({name: torch.tensor(average)})
    torch.manual_seed(0)
    weighed = learner.log_weights(batch(), 1, draws())
    torch.manual_seed(0)
    with torch.no_grad():
        made = learner.sampler(image)
        torch.testing.assert_close(weighed[:, 0], averaged.log_mass(made.output, image) + made.log_ratio)
