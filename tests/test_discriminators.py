"""The comparison of discriminators, on networks whose spectra are known."""

from __future__ import annotations

import pytest
import torch

from experiments.discriminators import compare
from lightning_avatars.networks.base import Discriminator, Verdict


class Sharp(Discriminator):
    """A logit that depends on each pixel for itself: all frequencies alike."""

    def forward(self, x, labels=None):
        return Verdict([(x**2).sum((1, 2, 3))])


class Blurred(Sharp):
    """The same of pictures whose pixels are averaged in squares of four."""

    def forward(self, x, labels=None):
        return super().forward(torch.nn.functional.avg_pool2d(x, 4))


@pytest.mark.parametrize(("network", "least", "most"), [(Sharp, 0.95, 1.05), (Blurred, 0.0, 0.05)])
def test_the_spectrum_tells_what_a_discriminator_sees(monkeypatch, network, least, most):
    monkeypatch.setattr(compare, "fresh", lambda model, seed: torch.manual_seed(seed) and network())
    shares = compare.spectrum("any")
    assert shares[0] == 1 and len(shares) == compare.BANDS
    assert least <= shares[2] <= most and least <= shares[3] <= most


def test_every_discriminator_that_is_measured_is_a_shipped_one():
    for model in compare.SPECTRA:
        assert compare.fresh(model, 0)(torch.zeros(2, 3, 32, 32)).logits[0].shape[0] == 2


def test_a_pair_is_a_line_of_the_table():
    row = {
        "generator": "a", "discriminator": "b", "training": {"images_per_second": 250.4},
        "scores": {"fd_avatarnet_5k": {"value": 123.4}, "precision_avatarnet_5k": {"value": 0.25}},
    }  # fmt: skip
    found = {"images": 20_000, "hardware": "2 cores", "pairs": [row]}
    assert compare.pairings(found).splitlines()[-1] == "| a | b | 123 | 0.250 | 250 |"
