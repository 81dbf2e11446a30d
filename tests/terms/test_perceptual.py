"""Perceptual distances: against the metrics they come from, and out of the way of checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.metrics.extractors.pixels import Pixels
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.terms.perceptual import LearnedPerceptual, Perceptual
from lightning_avatars.terms.reconstruction import L1, L2
from tests.conf.adversarial_autoencoders import vqgan_game
from tests.conf.measuring import shared
from tests.conf.training import fit


def step(side: int = 32, channels: int = 3) -> SimpleNamespace:
    torch.manual_seed(0)
    fake, target = (to_float(torch.randint(0, 256, (2, channels, side, side), dtype=torch.uint8)) for _ in range(2))
    return SimpleNamespace(fake=fake.requires_grad_(), target=target)


def test_pixels_are_compared_by_means():
    turn = SimpleNamespace(fake=torch.full((2, 1, 2, 2), 0.5), target=torch.full((2, 1, 2, 2), -1.0))
    assert float(L1()(turn)) == 1.5 and float(L2()(turn)) == 2.25


def test_the_distance_is_that_of_unit_features_of_avatarnets_blocks():
    turn, extractor = step(), load_extractor("avatarnet")
    stages = extractor.network.stages
    a, b = (extractor.prepare(to_bytes(x.detach())) for x in (turn.fake, turn.target))
    expected = 0.0
    for number, stage in enumerate(stages):
        a, b = stage(a.clone()), stage(b.clone())
        if number >= 2:
            units = [x / x.norm(dim=1, keepdim=True).clamp(min=1e-5) for x in (a, b)]
            expected += float((units[0] - units[1]).square().sum(1).mean())
    loss = Perceptual()(turn)
    assert float(loss) == pytest.approx(expected, rel=1e-4) and expected > 0.1
    loss.backward()
    assert turn.fake.grad.abs().sum((0, 2, 3)).min() > 0
    same = float(Perceptual()(SimpleNamespace(fake=turn.fake, target=turn.fake.detach())))
    assert same < 1e-10, "but for rounding: one of the two is resized by matrices"


def test_last_features_and_grey_pictures_of_other_extractors_are_compared_too():
    turn, extractor = step(channels=1), load_extractor("mnistnet")
    a, b = (extractor(to_bytes(x.detach())).features for x in (turn.fake, turn.target))
    units = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    loss = Perceptual(extractor="mnistnet", layers=None)(turn)
    assert float(loss) == pytest.approx(float((units[0] - units[1]).square().sum(1).mean()), rel=1e-4)


def change_along(loss, x: torch.Tensor, direction: torch.Tensor, step: float = 0.01) -> float:
    """Central difference of a loss."""
    with torch.no_grad():
        return float(loss(x + step * direction).double() - loss(x - step * direction).double()) / (2 * step)


@pytest.mark.parametrize("name", ["avatarnet", "alex"])
def test_gradients_are_what_the_loss_changes_by(name, monkeypatch):
    term = Perceptual() if name == "avatarnet" else LearnedPerceptual(network="alex")
    if name == "alex":
        file = next(shared("weights").glob("alexnet-features*"))
        monkeypatch.setattr(term, "load", lambda: LPIPS("alex", file))
    torch.manual_seed(0)
    target = 0.5 * torch.randn(2, 3, 1, 1) + torch.linspace(-0.4, 0.4, 40)  # smooth, for kinks are many in noise
    fake = (target.expand(-1, -1, 40, -1).mT + 0.1 * torch.randn(2, 3, 40, 40)).requires_grad_()
    turn = SimpleNamespace(fake=fake, target=target.expand(-1, -1, 40, -1))
    (gradient,) = torch.autograd.grad(term(turn), fake)
    found = change_along(lambda x: term(SimpleNamespace(fake=x, target=turn.target)), fake, gradient / gradient.norm())
    assert found == pytest.approx(float(gradient.norm()), rel=0.03) and found > 0
    across = torch.randn_like(gradient)
    across = across - gradient * (across * gradient).sum() / gradient.square().sum()
    found = change_along(lambda x: term(SimpleNamespace(fake=x, target=turn.target)), fake, across / across.norm())
    assert abs(found) < 0.05 * float(gradient.norm()), "no other direction leads up"


def test_lpips_as_a_loss_is_lpips_as_a_metric(monkeypatch):
    weights = shared("weights")
    term = LearnedPerceptual(network="alex")
    file = next(weights.glob("alexnet-features*"))
    monkeypatch.setattr(term, "load", lambda: LPIPS("alex", file))
    turn = step(side=40)
    loss = term(turn)
    expected = LPIPS("alex", file)(to_bytes(turn.fake.detach()), to_bytes(turn.target)).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert turn.fake.grad.any()
    with pytest.raises(ValueError, match="at least 31 x 31"):
        term(step(side=16))


def test_the_network_is_no_part_of_checkpoints_and_is_not_trained(tmp_path):
    module = vqgan_game(generator_terms={"seen": Perceptual()}, balance=None)
    assert not module.terms["generator"]["seen"].held
    fit(module, tmp_path, images=16)
    term = module.terms["generator"]["seen"]
    assert not any("seen" in name for name in module.state_dict())
    assert not list(term.parameters()) and len(term.held) == 1
    assert all(not p.requires_grad and p.grad is None for p in term.held[0].parameters())
    assert not term.held[0].training and module.latest["generator/seen"] > 0


def test_layers_that_are_not_there_are_refused_before_training(tmp_path):
    module = vqgan_game(generator_terms={"seen": Perceptual(layers=["network.attic"])}, balance=None)
    with pytest.raises(ValueError, match=r"no layer network\.attic"):
        fit(module, tmp_path, images=8)


def test_extractors_without_gradients_are_refused(monkeypatch):
    monkeypatch.setattr("lightning_avatars.terms.perceptual.load_extractor", lambda name: Pixels())
    with pytest.raises(ValueError, match="'pixels' gives no gradients"):
        Perceptual(extractor="pixels").load()
