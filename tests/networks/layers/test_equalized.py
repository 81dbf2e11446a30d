"""Equalised layers, pixel norm and minibatch deviation against their definitions."""

import pytest
import torch
from torch.nn.functional import conv2d

from lightning_avatars.networks.layers.equalized import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchDeviation,
    activate,
    pixel_norm,
)


def test_a_linear_layer_scales_weights_by_hes_constant_and_its_learning_rate():
    torch.manual_seed(0)
    layer, x = EqualizedLinear(16, 5, bias=0.3, learning_rate=0.01, gain=2.0), torch.randn(4, 16)
    torch.testing.assert_close(layer(x), 2 * (x @ (0.01 * layer.weight).T) / 4 + 0.3)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.2)
    plain = EqualizedLinear(16, 5, bias=None)
    torch.testing.assert_close(plain(x[:, None]), x[:, None] @ plain.weight.T / 4)
    assert plain.bias is None


def test_equal_steps_of_the_optimizer_are_slower_by_the_learning_rate():
    x = torch.ones(1, 4)
    moved = []
    for rate in (1.0, 0.01):
        layer = EqualizedLinear(4, 1, learning_rate=rate)
        before = layer(x)
        with torch.no_grad():
            layer.weight += 1
            layer.bias += 1
        moved.append((layer(x) - before).item())
    assert moved == pytest.approx([3, 0.03], rel=1e-3)


def test_a_convolution_scales_weights_by_hes_constant_and_keeps_variances():
    torch.manual_seed(0)
    layer, x = EqualizedConv2d(64, 64, bias=False), torch.randn(2, 64, 16, 16)
    torch.testing.assert_close(layer(x), conv2d(x, layer.weight, padding=1) / 24, atol=1e-5, rtol=1e-4)
    assert layer(x)[..., 1:-1, 1:-1].var().item() == pytest.approx(1, rel=0.05)
    assert activate(torch.randn(100_000)).square().mean().item() == pytest.approx(1.04, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_pixel_norm_brings_vectors_of_any_length_to_a_mean_square_of_one(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3, 3)
    for size in (1000.0, 1.0, 0.01):
        y = pixel_norm((size * x).to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float().square().mean(1), torch.ones(2, 3, 3), atol=0.02, rtol=0)
    assert (pixel_norm(torch.zeros(2, 8, dtype=dtype)) == 0).all()


@pytest.mark.parametrize(("count", "group"), [(8, 4), (6, 4), (3, 4), (4, 8), (5, 1)])
def test_minibatch_deviation_is_the_mean_deviation_within_a_group(count, group):
    torch.manual_seed(0)
    x = torch.randn(count, 3, 2, 5)
    y = MinibatchDeviation(group)(x)
    assert torch.equal(y[:, :3], x) and y.shape == (count, 4, 2, 5)
    members = {(8, 4): 4, (6, 4): 2, (3, 4): 1, (4, 8): 4, (5, 1): 1}[count, group]
    for first in range(0, count, members):
        found = y[first : first + members, 3]
        deviation = x[first : first + members].std(0, correction=0).mean().clamp(min=1e-4)
        torch.testing.assert_close(found, deviation.expand_as(found), atol=1e-6, rtol=1e-4)


def test_minibatch_deviation_is_twice_differentiable():
    x = torch.randn(4, 2, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(MinibatchDeviation(2), x) and torch.autograd.gradgradcheck(MinibatchDeviation(2), x)


def test_a_group_of_no_images_is_refused():
    with pytest.raises(ValueError, match=r"group counts the images .* at least 1, got 0"):
        MinibatchDeviation(0)
