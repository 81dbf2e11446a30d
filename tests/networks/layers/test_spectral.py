"""Spectral norm against singular values, and when its estimate moves."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.layers.spectral import SpectralNorm, add_spectral_norm
from lightning_avatars.objectives.adversarial import Hinge
from lightning_avatars.terms.consistency import Consistency
from lightning_avatars.terms.lecam import LeCam
from tests.conf.tiny import TinyDiscriminator
from tests.conf.training import fit, game, weights


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(3, 4, 3), lambda: LabelEmbedding(5, 4)])
def test_the_largest_singular_value_becomes_one(make):
    torch.manual_seed(0)
    layer = make()
    original = layer.weight.detach().clone()
    add_spectral_norm(layer)
    with torch.no_grad():
        for _ in range(200):
            layer.parametrizations.weight[0].follow(original.flatten(1))
            layer.parametrizations.weight[0].mark.fill_(torch.nan)
    largest = torch.linalg.matrix_norm(original.flatten(1), 2)
    torch.testing.assert_close(layer.weight, original / largest)


def test_the_gradient_is_that_of_the_quotient():
    """With the singular vectors held, d(W / s) has the term of s too (Miyato et al. 2018, Eq. 12)."""
    torch.manual_seed(0)
    norm, weight = SpectralNorm(torch.randn(4, 6).double(), 200), torch.randn(4, 6).double().requires_grad_()
    norm.eval()
    norm.vector = torch.linalg.svd(weight.detach()).U[:, 0]
    direction = torch.randn(4, 6).double()
    (found,) = torch.autograd.grad((norm(weight) * direction).sum(), weight)
    exact = torch.autograd.grad((weight / torch.linalg.matrix_norm(weight, 2) * direction).sum(), weight)[0]
    torch.testing.assert_close(found, exact)


def test_the_estimate_moves_once_for_each_move_of_the_weight():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    add_spectral_norm(layer)
    norm = layer.parametrizations.weight[0]
    start = norm.vector.clone()
    for _ in range(3):
        layer(torch.randn(2, 6))
    assert torch.equal(norm.vector, start), "chunks and second looks see the same weights"
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(torch.linspace(0.5, 2, 6))
    layer.eval()(torch.randn(2, 6))
    assert torch.equal(norm.vector, start), "evaluation changes nothing"
    layer.train()(torch.randn(2, 6))
    moved = norm.vector.clone()
    assert not torch.equal(moved, start)
    layer(torch.randn(2, 6))
    assert torch.equal(norm.vector, moved)


def test_it_follows_a_weight_that_learns():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3)
    add_spectral_norm(layer)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        (-layer(torch.randn(4, 3, 5, 5)).square().mean()).backward()
        optimizer.step()
    assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1.0, abs=0.02)


def test_two_forward_passes_may_share_one_backward_pass_and_a_copy_is_the_same():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    add_spectral_norm(layer)
    x = torch.randn(2, 6, requires_grad=True)
    twin = copy.deepcopy(layer)
    assert torch.equal(layer(x), twin(x))
    first = layer(x).sum()
    with torch.no_grad():
        layer.parametrizations.weight[0].mark.fill_(0)
    (gradient,) = torch.autograd.grad(first + layer(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), twin(x))


def test_bfloat16_finds_the_same_value_as_float32():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 5, 5)
    add_spectral_norm(layer)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
        y = layer(x)
    assert weight.dtype == torch.float32 and y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv2d(x, weight, layer.bias), atol=0.03, rtol=0.03)


def test_a_network_can_be_laid_out_without_memory():
    with torch.device("meta"):
        layer = nn.Linear(6, 4)
        add_spectral_norm(layer)
    assert layer.weight.is_meta and sum(p.numel() for p in layer.parameters()) == 28


def normalised(**arguments):
    torch.manual_seed(1)
    discriminator = TinyDiscriminator()
    add_spectral_norm(discriminator)
    terms = {"lecam": LeCam(), "consistency": Consistency(0.1, balanced=True)}
    return game(discriminator=discriminator, objective=Hinge(), discriminator_terms=terms, **arguments)


@pytest.mark.parametrize("critics", [1, 2])
def test_a_resumed_run_is_the_same_and_chunks_change_nothing(tmp_path, critics):
    whole, resumed, chunks = (normalised(critics=critics, micro_batch=size) for size in (None, None, 3))
    fit(whole, tmp_path / "whole")
    fit(normalised(critics=critics), tmp_path / "part", images=16)
    fit(resumed, tmp_path / "rest", ckpt_path=tmp_path / "part/checkpoints/images_000000016.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    fit(chunks, tmp_path / "chunks")
    torch.testing.assert_close(weights(chunks), weights(whole), rtol=1e-4, atol=1e-5)
