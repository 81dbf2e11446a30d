"""Convolutions that are differentiated twice: torch's numbers, by other ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, conv_transpose2d

from lightning_avatars.networks.r3gan import R3GANDiscriminator
from lightning_avatars.recompute import recompute
from lightning_avatars.second_order import Convolution, SecondOrder


def drawn(*sizes: int) -> torch.Tensor:
    return torch.randn(
        *sizes, generator=torch.Generator().manual_seed(sum(sizes)), dtype=torch.float64
    ).requires_grad_()


def asked(convolve, *arguments, **options) -> torch.Tensor:
    with SecondOrder():
        return convolve(*arguments, **options)


CASES = [
    (conv2d, (2, 4, 5, 5), (6, 2, 3, 3), {"padding": 1, "groups": 2}),
    (conv2d, (2, 3, 6, 7), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    (conv2d, (1, 2, 7, 7), (3, 2, 3, 3), {"dilation": 2}),
    (conv_transpose2d, (2, 4, 3, 4), (4, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    (conv_transpose2d, (2, 4, 3, 3), (4, 1, 4, 4), {"stride": 2, "groups": 2}),
]


@pytest.mark.parametrize(("convolve", "images", "kernel", "options"), CASES)
def test_first_and_second_derivatives_are_right(convolve, images, kernel, options):
    x, weight = drawn(*images), drawn(*kernel)
    bias = drawn(convolve(x, weight, **options).shape[1])
    torch.testing.assert_close(asked(convolve, x, weight, bias, **options), convolve(x, weight, bias, **options))
    one = lambda *tensors: asked(convolve, *tensors, **options)  # noqa: E731
    assert gradcheck(one, (x, weight, bias)) and gradgradcheck(one, (x, weight, bias))


def test_third_derivatives_are_there():
    x, weight = drawn(1, 2, 4, 4), drawn(2, 2, 3, 3)

    def slope(x, weight):
        y = asked(conv2d, x, weight, padding=1).pow(3)
        return torch.autograd.grad(y.sum(), x, create_graph=True)

    assert gradgradcheck(slope, (x, weight))


def test_layers_are_reached_and_only_within_and_with_a_graph():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    with SecondOrder():
        assert type(layer(x).grad_fn).__name__ == f"{Convolution.__name__}Backward"
        with torch.no_grad():
            assert layer(x).grad_fn is None
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0", "torch's"


def test_what_it_does_not_know_is_left_to_torch():
    x, weight = torch.randn(3, 8, 8), torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(asked(conv2d, x, weight), conv2d(x, weight))
    torch.testing.assert_close(asked(conv2d, x[None], weight, padding="same"), conv2d(x[None], weight, padding=1))
    back = asked(conv_transpose2d, x, weight.transpose(0, 1))
    torch.testing.assert_close(back, conv_transpose2d(x, weight.transpose(0, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_narrows_what_torch_narrows(dtype):
    layer, x = nn.Conv2d(3, 4, 3).to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(x), asked(layer, x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected)
    found.float().sum().backward()
    assert layer.weight.grad.dtype == dtype


def penalised(network: nn.Module) -> torch.Tensor:
    """Gradients of a loss with R1."""
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with SecondOrder():
        logits = network(x).logits[0]
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    (logits.square().mean() + gradient.square().sum((1, 2, 3)).mean()).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def made() -> R3GANDiscriminator:
    torch.manual_seed(0)
    network = R3GANDiscriminator(resolution=32, width=8)
    for p in network.parameters():  # its last layers begin at zero
        nn.init.normal_(p, std=0.1)
    return network


def test_what_is_computed_again_makes_the_same_graph(monkeypatch):
    calls = []
    backward = Convolution.backward
    monkeypatch.setattr(Convolution, "backward", staticmethod(lambda *given: calls.append(1) or backward(*given)))
    plain, saving = made(), made()
    expected, of_plain = penalised(plain), len(calls)
    recompute(saving, ["stages"])
    torch.testing.assert_close(penalised(saving), expected, rtol=1e-5, atol=1e-7)
    assert len(calls) == 2 * of_plain > 0
