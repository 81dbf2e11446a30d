"""Gradients and buffers of three processes, put together by hand."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from lightning_avatars import strategies
from lightning_avatars.strategies import PhaseDDP, by_dtype, digest, scatter

WORLD = 3  # the smallest in which a sum of equal numbers rounds
CONSTANTS = torch.randn(1000, generator=torch.Generator().manual_seed(0))


def strategy(**arguments) -> PhaseDDP:
    """The strategy as a Trainer leaves it, without one."""
    environment = LightningEnvironment()
    environment.set_world_size(WORLD)
    return PhaseDDP(parallel_devices=[torch.device("cpu")] * WORLD, cluster_environment=environment, **arguments)


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


def rounded_gradients(rank: int) -> list[Tensor | None]:
    owners = [parameter(CONSTANTS * (rank + 1), 1000), parameter(torch.ones(3) if rank == 2 else None, 3)]
    owners.append(parameter(None, 4))
    strategy(gradient_dtype="bfloat16").reduce_gradients(owners)
    return [p.grad for p in owners]


def sent_bytes(rank: int) -> list[int]:
    sent, whole = [], dist.all_reduce

    def count(tensor, *arguments, **more):
        sent.append(tensor.numel() * tensor.element_size())
        return whole(tensor, *arguments, **more)

    dist.all_reduce = count
    for dtype in (None, "bfloat16"):
        strategy(gradient_dtype=dtype).reduce_gradients([parameter(CONSTANTS.clone(), 1000)])
    strategy().check_equal(Everything())
    dist.all_reduce = whole
    return sent


def gradients_of_many_buckets(rank: int) -> list[Tensor | None]:
    kept, strategies.BUCKET = strategies.BUCKET, 64
    owners = [parameter(CONSTANTS[:n] * rank if n != 7 or rank else None, n) for n in range(1, 40)]
    owners.append(parameter(None, 3))
    strategy().reduce_gradients(owners)
    strategies.BUCKET = kept
    return [p.grad for p in owners]


class Everything(nn.Module):
    """Tensors of many types and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0).view(2, 4))
        self.register_buffer("short", torch.arange(5, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.tensor([True, False, False]))
        self.register_buffer("counts", torch.arange(4))
        self.register_buffer("scalar", torch.tensor(3.0, dtype=torch.float64))
        self.register_buffer("missing", torch.tensor([float("nan"), 1.0]))
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())


CHANGES = {  # of one process, and all but the first keep the sum of what they change
    "scalar": lambda m: m.scalar.add_(2**-50),
    "weight": lambda m: m.weight.data.copy_(m.weight.data.flip(1)),
    "short": lambda m: m.short.copy_(torch.tensor([1, 1, 1, 3, 4])),
    "flags": lambda m: m.flags.copy_(torch.tensor([False, True, False])),
    "counts": lambda m: m.counts.copy_(torch.tensor([1, -1, 3, 3])),  # by 1, -2, 1
    "missing": lambda m: m.missing.copy_(torch.tensor([1.0, float("nan")])),
    "turned": lambda m: m.turned.copy_(torch.arange(6.0).view(3, 2)),
}


def checked_equality(rank: int) -> list[str]:
    said = []
    for change in (None, *CHANGES.values()):
        module = Everything()
        if rank == 1 and change is not None:
            change(module)
        try:
            strategy().check_equal(module)
            said.append("")
        except RuntimeError as error:
            said.append(str(error))
    return said


def work(rank: int, folder: Path) -> None:
    """Run every scene as one of the processes and keep what it gives."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    scenes = (
        reduced_gradients,
        complete_gradients,
        averaged_buffers,
        configured_state,
        checked_equality,
        rounded_gradients,
        sent_bytes,
        gradients_of_many_buckets,
    )
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


def test_a_tensor_that_differs_in_one_bit_or_in_order_is_named_on_all_and_equal_ones_pass(ranks):
    for rank in ranks:
        equal, *different = rank["checked_equality"]
        assert equal == "", "NaN equals itself"
        for name, said in zip(CHANGES, different, strict=True):
            assert said.startswith(f"{name} differs between processes, and 0 more")


def test_a_digest_sees_every_order_of_numbers_and_none_of_the_memorys():
    numbers = [torch.tensor(p).float() for p in itertools.permutations(range(6))]
    assert len({digest(x).item() for x in numbers}) == 720
    x = torch.randn(4, 5, 3, 3)
    assert digest(x) == digest(x.contiguous(memory_format=torch.channels_last)) == digest(x[None])
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float32, torch.bfloat16, torch.bool])
def test_a_digest_leaves_its_tensor_alone(dtype):
    x = torch.ones(3, dtype=dtype)
    assert digest(x) == digest(x) and torch.equal(x, torch.ones(3, dtype=dtype))


def test_gradients_that_travel_in_pieces_are_the_same(ranks):
    for rank in ranks:
        *means, nowhere = rank["gradients_of_many_buckets"]
        assert nowhere is None
        assert all(torch.allclose(g, CONSTANTS[: len(g)], 1e-6, 0) for g in means), "the mean of 0, 1 and 2 times"


def test_gradients_in_bfloat16_are_the_mean_to_eight_bits(ranks):
    for rank in ranks:
        mean, once, nowhere = rank["rounded_gradients"]
        assert mean.dtype == torch.float32 and nowhere is None
        torch.testing.assert_close(mean, 2 * CONSTANTS, rtol=3 * 2**-8, atol=0)
        assert not torch.equal(mean, 2 * CONSTANTS)
        torch.testing.assert_close(once, torch.full((3,), 1 / 3))
        assert torch.equal(mean, ranks[0]["rounded_gradients"][0])


def test_bfloat16_halves_what_is_sent_and_a_check_sends_sixteen_bytes_for_each_tensor(ranks):
    for rank in ranks:
        assert rank["sent_bytes"] == [4 * 1001, 2 * 1001, 16 * 8]
