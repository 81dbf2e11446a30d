"""How much memory a run will need, told before it starts, and what the C library does with what is freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names of what mallopt sets


class Need(NamedTuple):
    """Bytes that training needs, apart from what libraries keep for themselves."""

    weights: int  # parameters, their gradients, two moments of Adam, averages, buffers
    activations: int  # kept between forward and backward pass of the hungriest turn

    def __str__(self) -> str:
        unit, name = (2**30, "GiB") if sum(self) >= 2**30 else (2**20, "MiB")
        total, weights, activations = (count / unit for count in (sum(self), *self))
        return f"about {total:,.1f} {name}: {weights:,.1f} of weights and {activations:,.1f} of activations"


def of_weights(module: nn.Module) -> int:
    """Bytes of parameters, with a gradient and two moments for each that is trained, and of buffers."""
    trained = sum(4 * size(p) if p.requires_grad else size(p) for p in module.parameters())
    return trained + sum(size(b) for b in module.buffers())


def of_activations(run: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for its backward pass, found without computing anything.

    Args:
        run: Calls networks with inputs that it makes; neither are touched.
    """
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's place is used twice

    def keep(tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):  # parameters are not
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        run()
    return sum(kept.values())


@contextmanager
def undisturbed(module: nn.Module, talkers: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Let a module run in training, on this process alone, and put its buffers back as they were.

    Args:
        module: The module.
        talkers: Parts that ask other processes while they train; these do not train meanwhile.
    """
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    training = [part for part in module.modules() if isinstance(part, talkers) and part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
        for buffer, kept in buffers.items():
            buffer.copy_(kept)


def size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next batch, instead of handing its pages back.

    Pages that come back must be filled with zeros by the kernel: up to 2,800 of them in a batch of DCGAN at 32 x 32,
    5 % of its time on a CPU. Only glibc is told; other libraries have ways of their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_THRESHOLD, 2**25)  # the most that glibc takes; both are fixed when one is set
