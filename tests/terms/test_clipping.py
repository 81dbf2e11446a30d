"""The critic's weights in their box."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_avatars.terms.clipping import WeightClip


def step() -> SimpleNamespace:
    networks = {name: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for name in ("discriminator", "generator")}
    for network in networks.values():
        network.register_buffer("level", torch.tensor(5.0))
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([[-1.0, 0.03], [0.05, 2.0]]))
    return SimpleNamespace(module=SimpleNamespace(**networks))


def test_every_weight_is_clamped_and_nothing_else():
    turn = step()
    weight = turn.module.discriminator[0].weight
    WeightClip(0.05).after_step(turn)
    assert weight.tolist() == torch.tensor([[-0.05, 0.03], [0.05, 0.05]]).tolist()
    assert turn.module.discriminator[1].weight.tolist() == torch.tensor([0.05, 0.05]).tolist(), "WGAN clips all weights"
    assert turn.module.discriminator.level == 5, "buffers are no weights"
    assert turn.module.generator[0].weight.abs().max() == 2
    assert weight.requires_grad and weight.is_leaf


def test_clipping_twice_is_clipping_once():
    turn = step()
    WeightClip().after_step(turn)
    first = turn.module.discriminator[0].weight.clone()
    WeightClip().after_step(turn)
    assert torch.equal(turn.module.discriminator[0].weight, first)
    assert first.abs().max().item() == pytest.approx(0.01)


def test_it_adds_no_loss():
    assert WeightClip()(step()) is None


@pytest.mark.parametrize("limit", [0, -0.01])
def test_the_box_must_have_a_width(limit):
    with pytest.raises(ValueError, match=f"above 0, got {limit}"):
        WeightClip(limit)
