"""Likeness in the discriminator's features."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_avatars.networks.base import Verdict
from lightning_avatars.terms.features import FeatureMatching, FeatureReconstruction


def step(layers: int = 2) -> SimpleNamespace:
    made = [torch.full((2, 3), 2.0, requires_grad=True), torch.ones(2, 1, 4, 4)][:layers]
    real = [torch.zeros(2, 3, requires_grad=True), torch.full((2, 1, 4, 4), 4.0)][:layers]
    verdicts = {"fake_verdict": Verdict([torch.zeros(2)], made), "real_verdict": Verdict([torch.zeros(2)], real)}
    return SimpleNamespace(**verdicts, module=SimpleNamespace(discriminator=torch.nn.Identity()))


def test_all_layers_are_matched_by_their_mean_absolute_differences():
    turn = step()
    loss = FeatureMatching()(turn)
    assert float(loss) == 2 + 3
    loss.backward()
    assert turn.fake_verdict.features[0].grad.sum() == 1 and turn.real_verdict.features[0].grad is None


def test_the_gradient_pulls_features_of_fakes_alone_towards_those_of_real_images():
    torch.manual_seed(0)
    fakes, reals = ([torch.randn(shape, requires_grad=True) for shape in ((2, 3), (2, 1, 4, 4))] for _ in range(2))
    turn = SimpleNamespace(
        fake_verdict=Verdict([], fakes), real_verdict=Verdict([], reals), module=SimpleNamespace(discriminator=None)
    )
    FeatureMatching()(turn).backward()
    for fake, real in zip(fakes, reals, strict=True):
        torch.testing.assert_close(fake.grad, (fake - real).sign().detach() / fake.numel())
        assert real.grad is None and fake.grad.min() < 0 < fake.grad.max()
    fakes[1].grad = None
    FeatureReconstruction()(turn).backward()
    torch.testing.assert_close(fakes[1].grad, 2 * (fakes[1] - reals[1]).detach() / 32)
    assert reals[1].grad is None


@pytest.mark.parametrize(("layer", "expected"), [(0, 4.0), (-1, 9.0)])
def test_one_layer_is_reconstructed_by_its_mean_squared_difference(layer, expected):
    assert float(FeatureReconstruction(layer=layer)(step())) == expected


def test_absent_features_and_layers_are_refused():
    with pytest.raises(ValueError, match="PatchDiscriminator"):
        FeatureMatching()(step(layers=0))
    with pytest.raises(ValueError, match="layer 5, but verdicts have 2"):
        FeatureReconstruction(layer=5)(step())
