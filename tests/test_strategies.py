"""Gradients and buffers of three processes, put together by hand."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from lightning_avatars.strategies import PhaseDDP, by_dtype, scatter

WORLD = 3  # the smallest in which a sum of equal numbers rounds
CONSTANTS = torch.randn(1000, generator=torch.Generator().manual_seed(0))


def strategy() -> PhaseDDP:
    """The strategy as a Trainer leaves it, without one."""
    environment = LightningEnvironment()
    environment.set_world_size(WORLD)
    return PhaseDDP(parallel_devices=[torch.device("cpu")] * WORLD, cluster_environment=environment)


def parameter(gradient: Tensor | None, *shape: int) -> nn.Parameter:
    p = nn.Parameter(torch.zeros(shape))
    p.grad = gradient
    return p


def reduced_gradients(rank: int) -> list[Tensor | None]:
    owners = [
        parameter(torch.full((2, 3), float(rank + 1)), 2, 3),  # on all: the mean of 1, 2, 3
        parameter(torch.full((4,), 6.0) if rank == 1 else None, 4),  # on one: zeros elsewhere
        parameter(None, 5),  # on none
        parameter(torch.zeros(2), 2),  # zero everywhere, but there
        parameter(torch.tensor(float(rank)) if rank else None),  # on two, a scalar
    ]
    strategy().reduce_gradients(owners)
    return [p.grad for p in owners]


def complete_gradients(rank: int) -> list[Tensor]:
    owners = [parameter(torch.arange(6.0).view(2, 3) * rank, 2, 3)]
    kept = owners[0].grad
    strategy().reduce_gradients(iter(owners))
    assert owners[0].grad is kept, "gradients are reduced in place"
    return [kept]


def averaged_buffers(rank: int) -> list[Tensor]:
    buffers = [
        torch.full((2, 2), float(rank)),
        torch.tensor(10 * (rank + 1)),
        torch.tensor([rank == 0, rank == 1]),
        torch.tensor([rank * 3.0], dtype=torch.float64),
        torch.tensor(float("inf")),
        torch.empty(0),
        CONSTANTS.clone(),
    ]
    strategy().average_buffers(buffers)
    strategy().average_buffers([])
    return buffers


def configured_state(rank: int) -> list[Tensor]:
    torch.manual_seed(rank)
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    module(torch.randn(4 * (rank + 1), 2))
    parallel = strategy()
    parallel.model = module
    parallel.configure_ddp()
    assert parallel.model is module, "there is no wrapper"
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())
    return [t.detach() for t in module.state_dict().values()]


def checked_equality(rank: int) -> list[str]:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    said = []
    for value in (0.0, float("nan"), 1.0 * rank):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.detach().fill_(1)
        module[1].running_mean[1] = value
        try:
            strategy().check_equal(module)
        except RuntimeError as error:
            said.append(str(error))
    return said


def work(rank: int, folder: Path) -> None:
    """Run every scene as one of the processes and keep what it gives."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    scenes = (reduced_gradients, complete_gradients, averaged_buffers, configured_state, checked_equality)
    torch.save({scene.__name__: scene(rank) for scene in scenes}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    multiprocessing.set_forkserver_preload(["lightning_avatars.strategies"])  # imported once, not by each process
    mp.start_processes(work, (folder,), WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def test_gradients_are_averaged_and_missing_ones_are_zeros(ranks):
    for rank in ranks:
        everywhere, once, nowhere, zero, twice = rank["reduced_gradients"]
        assert torch.equal(everywhere, torch.full((2, 3), 2.0))
        assert torch.equal(once, torch.full((4,), 2.0))
        assert nowhere is None, "None everywhere stays None, so that the optimizer leaves its state alone"
        assert torch.equal(zero, torch.zeros(2)), "a zero gradient is not a missing one"
        assert twice.shape == () and twice == 1


def test_complete_gradients_are_averaged_in_place(ranks):
    for rank in ranks:
        assert torch.equal(rank["complete_gradients"][0], torch.arange(6.0).view(2, 3))


def test_buffers_are_averaged_and_integers_come_from_the_first(ranks):
    for rank in ranks:
        mean, integer, boolean, double, infinite, empty, _ = rank["averaged_buffers"]
        assert torch.equal(mean, torch.ones(2, 2))
        assert integer == 10 and integer.dtype == torch.int64
        assert boolean.tolist() == [True, False]
        assert double.item() == 3 and double.dtype == torch.float64
        assert infinite == float("inf") and empty.numel() == 0


def test_constant_buffers_never_drift(ranks):
    for rank in ranks:
        assert torch.equal(rank["averaged_buffers"][-1], CONSTANTS)


def test_all_start_with_the_firsts_state(ranks):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    first(torch.randn(4, 2))
    for rank in ranks:
        for found, expected in zip(rank["configured_state"], first.state_dict().values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert all(map(torch.equal, rank["configured_state"], ranks[0]["configured_state"]))


def test_tensors_are_grouped_by_type_without_empty_ones():
    a, b, c = torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 2)
    groups = by_dtype([a, torch.empty(0), b, c])
    assert [[id(t) for t in group] for group in groups] == [[id(a), id(c)], [id(b)]]


def test_scatter_undoes_flattening():
    tensors = [torch.zeros(2, 3), torch.zeros(()), torch.zeros(4).view(2, 2).t()]
    scatter(torch.arange(11.0), tensors)
    assert tensors[0].tolist() == [[0, 1, 2], [3, 4, 5]] and tensors[1] == 6
    assert tensors[2].tolist() == [[7, 8], [9, 10]] and not tensors[2].is_contiguous()


def test_a_buffer_that_differs_is_named_on_all_and_equal_ones_pass(ranks):
    for rank in ranks:
        (said,) = rank["checked_equality"]
        assert said.startswith("1.running_mean differs between processes, and 0 more")
