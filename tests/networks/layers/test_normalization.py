"""Batch norm over processes against one process with the whole batch; layer and instance norm for images."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from lightning_avatars.networks.layers.normalization import BatchNorm2d, InstanceNorm2d, LayerNorm2d

PARTS = (5, 3)  # images of each process


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(PARTS), 4, 3, 5, generator=generator, dtype=torch.double)
    return x * 2 + 3, torch.randn(x.shape, generator=generator, dtype=torch.double)


def layer(**options):
    torch.manual_seed(1)
    norm = BatchNorm2d(4, **options).double()
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def play(norm, x, weights):
    """Two training steps' worth of quantities: outputs, first and second gradients, running statistics."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (gradient,) = torch.autograd.grad((y.pow(3) * weights).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    state = {name: buffer.clone() for name, buffer in norm.state_dict().items()}
    parameters = {name: p.grad for name, p in norm.named_parameters()}
    return {"y": y.detach(), "first": gradient.detach(), "second": x.grad}, state, parameters


def work(rank, port, options, results):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    x, weights = (t.split(PARTS)[rank] for t in batch())
    outcome = play(layer(**options), x, weights)
    evaluated = layer(**options).eval()
    outcome[0]["eval"] = evaluated(x).detach()
    results[rank] = outcome
    dist.destroy_process_group()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("options", [{}, {"momentum": None, "affine": False}])
def test_two_processes_equal_one(options):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, (free_port(), options, results), nprocs=2)
        (per_image, state, parameters), (per_image_1, state_1, parameters_1) = results[0], results[1]
    x, weights = batch()
    expected_per_image, expected_state, expected_parameters = play(nn_layer(options), x, weights)
    expected_per_image["eval"] = nn_layer(options).eval()(x).detach()
    for name, expected in expected_per_image.items():
        assert torch.allclose(torch.cat([per_image[name], per_image_1[name]]), expected, atol=1e-10), name
    for name, expected in expected_state.items():
        assert torch.equal(state[name], state_1[name]), name
        assert torch.allclose(state[name], expected), name
    for name, expected in expected_parameters.items():
        assert torch.allclose(parameters[name] + parameters_1[name], expected), name


def nn_layer(options):
    """Torch's own layer with the weights of ours."""
    ours = layer(**options)
    native = nn.BatchNorm2d(4, **options).double()
    native.load_state_dict(copy.deepcopy(ours.state_dict()))
    return native


def test_one_process_is_torchs_own():
    x, weights = batch()
    for ours, native in zip(play(layer(), x, weights), play(nn_layer({}), x, weights), strict=True):
        assert all(torch.equal(ours[name], native[name]) for name in native)


def test_statistics_are_float32_under_autocast():
    norm = BatchNorm2d(4)
    x = torch.randn(64, 4, 8, 8) + 100
    with torch.autocast("cpu", torch.bfloat16):
        norm(x.bfloat16())
    assert norm.running_mean.dtype == torch.float32
    assert norm.running_mean == pytest.approx(10, abs=0.05)


def test_layer_norm_normalises_each_image_alone():
    x = torch.randn(3, 4, 5, 5) * torch.tensor([1.0, 10, 100])[:, None, None, None] + 7
    y = LayerNorm2d(4)(x).flatten(1).detach()
    assert y.mean(1) == pytest.approx(0, abs=1e-4)
    assert y.std(1, correction=0) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_is_torchs_own(affine):
    torch.manual_seed(0)
    ours, native = InstanceNorm2d(4, affine).double(), nn.InstanceNorm2d(4, affine=affine).double()
    if affine:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        native.load_state_dict(ours.state_dict())
    x = (torch.randn(3, 4, 5, 6, dtype=torch.float64) * 3 + 7).requires_grad_()
    weight = torch.randn_like(x)
    torch.testing.assert_close(ours(x), native(x))
    (mine,), (other,) = (torch.autograd.grad(norm(x), x, weight) for norm in (ours, native))
    torch.testing.assert_close(mine, other)


def test_instance_norm_keeps_half_precision_and_sums_in_float32():
    torch.manual_seed(0)
    x = (torch.randn(2, 4, 64, 64) + 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = InstanceNorm2d(4, affine=True)(x)
    assert y.dtype == torch.bfloat16
    exact = nn.InstanceNorm2d(4).double()(x.double())
    assert (y.double() - exact).abs().max() < 0.02, "rounding of results below 4, and nothing more"


def test_instance_norm_of_single_pixels_is_refused():
    with pytest.raises(ValueError, match="one pixel"):
        InstanceNorm2d(2)(torch.zeros(4, 2, 1, 1))
