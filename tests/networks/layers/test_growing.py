"""Resampling that keeps gradients' lengths, and the stage that a level needs."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import avg_pool2d, interpolate

from lightning_avatars.networks.layers.growing import enlarge, fade, shrink, stage_of


@pytest.mark.parametrize("times", [1, 2, 4, 8])
def test_images_are_repeated_and_averaged(times):
    small, large = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4 * times, 4 * times)
    torch.testing.assert_close(enlarge(small, 4 * times), interpolate(small, scale_factor=times))
    torch.testing.assert_close(shrink(large, 4), avg_pool2d(large, times))
    torch.testing.assert_close(shrink(enlarge(small, 4 * times), 4), small)


@pytest.mark.parametrize("times", [1, 2, 8])
def test_both_keep_the_length_of_a_gradient_and_together_the_gradient(times):
    weight = torch.randn(2, 3, 4, 4)
    large = torch.randn(2, 3, 4 * times, 4 * times, requires_grad=True)
    (gradient,) = torch.autograd.grad((shrink(large, 4) * weight).sum(), large)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    small = torch.randn(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad((shrink(enlarge(small, 4 * times), 4) * weight).sum(), small)
    torch.testing.assert_close(gradient, weight)


def test_the_gradient_can_be_differentiated_again():
    """Of sum(shrink(x)^3) at 8 x 8, half the squared gradient is half of sum((3 s^2)^2), as it is at 4 x 4."""
    x = torch.randn(1, 1, 8, 8, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(shrink(x, 4).pow(3).sum(), x, create_graph=True)
    loss = gradient.square().sum() / 2
    small = shrink(x.detach(), 4)
    torch.testing.assert_close(loss, 4.5 * small.pow(4).sum())
    (again,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(again, interpolate(9 * small.pow(3), scale_factor=2))


def test_a_level_names_its_stage_and_whether_it_is_faded_in():
    stages = [stage_of(torch.tensor(level), 3) for level in (-1.0, 0.0, 0.25, 1.0, 1.5, 2.999, 3.0, 7.5)]
    assert stages == [
        (0, False), (0, False), (1, True), (1, False), (2, True), (3, True), (3, False), (3, False)
    ]  # fmt: skip


def test_a_look_that_computes_nothing_sees_the_whole_network():
    level = torch.tensor(0.5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert stage_of(level, 3) == (3, False)


def test_fading_mixes_in_proportion():
    old, new = torch.zeros(2), torch.ones(2, dtype=torch.bfloat16)
    mixed = fade(torch.tensor(2.25), 3, old, new)
    assert mixed.tolist() == [0.25, 0.25]
    assert fade(torch.tensor(2.25), 3, old.to(new), new).dtype == torch.bfloat16
