"""Verdicts in float32, and truncation only where a network has it."""

import pytest
import torch

from lightning_avatars.networks.base import Verdict
from tests.conf.tiny import TinyGenerator


def test_a_verdict_in_float32_keeps_its_features():
    half = torch.tensor([0.1, 0.2]).bfloat16()
    verdict = Verdict([half, 2 * half], [half], {"class": half}).float()
    assert [x.dtype for x in (*verdict.logits, verdict.heads["class"])] == [torch.float32] * 3
    assert torch.equal(verdict.logits[1], 2 * half.float()) and verdict.features[0] is half


def test_a_generator_without_truncation_refuses_it_and_else_draws_as_always():
    generator, z = TinyGenerator(), torch.randn(2, 8)
    assert torch.equal(generator.truncated(z, None, 1.0), generator(z))
    with pytest.raises(ValueError, match="TinyGenerator has no truncation: leave truncation_psi at 1"):
        generator.truncated(z, None, 0.7)
