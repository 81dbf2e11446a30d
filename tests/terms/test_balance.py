"""The adaptive weight: its norms, bounds and silence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_avatars.terms.balance import AdaptiveWeight


def step() -> SimpleNamespace:
    """A turn of a generator that is one linear layer."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False))
    return SimpleNamespace(module=SimpleNamespace(generator=generator, latest={}))


def losses(turn: SimpleNamespace, reconstruction: float, adversarial: float) -> dict[str, torch.Tensor]:
    """Losses with gradients (reconstruction, 0, 0) and (0, adversarial, 0) at the last weights, and one without."""
    last = turn.module.generator[1].weight
    return {
        "adversarial": adversarial * last[0, 1],
        "l1": reconstruction * last[0, 0],
        "commitment": turn.module.generator[0].weight.sum(),
    }


def test_the_weight_is_the_ratio_of_the_norms_and_other_losses_stay():
    turn = step()
    given = losses(turn, 3.0, -0.5)
    found = AdaptiveWeight("1", delta=1e-4)(given, turn)
    factor = 3 / (0.5 + 1e-4)
    assert float(found["adversarial"]) == pytest.approx(factor * float(given["adversarial"]))
    assert found["l1"] is given["l1"] and found["commitment"] is given["commitment"]
    assert turn.module.latest["balance/adaptive"] == pytest.approx(factor)
    found["adversarial"].backward()
    assert float(turn.module.generator[1].weight.grad[0, 1]) == pytest.approx(-0.5 * factor), (
        "it has no gradient itself"
    )


def test_the_weight_is_bounded():
    turn = step()
    AdaptiveWeight("1", largest=7.0)(losses(turn, 3.0, 1e-9), turn)
    assert turn.module.latest["balance/adaptive"] == 7
    AdaptiveWeight("1")(losses(turn, 0.0, 1.0), turn)
    assert turn.module.latest["balance/adaptive"] == 0


def test_nothing_is_weighed_where_no_other_loss_is_due():
    turn = step()
    alone = {"adversarial": losses(turn, 1.0, 1.0)["adversarial"]}
    assert AdaptiveWeight("1")(alone, turn) is alone


@pytest.mark.parametrize("arguments", [{"delta": 0.0}, {"largest": -1.0}])
def test_bounds_must_be_positive(arguments):
    with pytest.raises(ValueError, match="above 0"):
        AdaptiveWeight(**arguments)
