"""Data parallelism that averages the gradients of the player that steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn


class PhaseDDP(DDPStrategy):
    """Data parallelism for modules whose players take turns.

    There is no wrapper around the module: its state is broadcast once, and the module asks for the reduction of one
    player's gradients after that player's backward passes. Lightning's own DDP fails on such modules, for it expects
    every parameter in every backward pass.
    """

    def configure_ddp(self) -> None:
        tensors = [t.detach() for t in chain(self.model.parameters(), self.model.buffers())]
        for group in by_dtype(tensors):
            flat = torch.cat([t.flatten() for t in group])
            dist.broadcast(flat, src=0)
            scatter(flat, group)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over processes; one that is None on some counts as zeros, on all it stays None."""
        owners = list(parameters)
        missing = [p.grad is None for p in owners]
        for p, absent in zip(owners, missing, strict=True):
            if absent:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in owners]
        present = torch.tensor([not absent for absent in missing], dtype=torch.float32).to(self.root_device)
        flat = torch.cat([present, *(g.flatten() for g in gradients)])
        dist.all_reduce(flat)
        scatter(flat[len(owners) :] / self.world_size, gradients)
        if any(missing):
            for p, count in zip(owners, flat[: len(owners)].tolist(), strict=True):
                if count == 0:
                    p.grad = None

    @torch.no_grad()
    def average_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Make floating-point buffers equal on all processes by averaging, others by taking the first process's."""
        for group in by_dtype(list(buffers)):
            flat = torch.cat([t.flatten() for t in group])
            if flat.is_floating_point():
                total = flat.double()  # in which equal numbers sum up exactly: a constant must not drift
                dist.all_reduce(total)
                flat = (total / self.world_size).to(flat.dtype)
            else:
                dist.broadcast(flat, src=0)
            scatter(flat, group)

    @torch.no_grad()
    def check_equal(self, module: nn.Module) -> None:
        """Raise where parameters or buffers differ between processes: a checkpoint holds the first process's alone.

        Raises:
            RuntimeError: The first tensor that differs is named.
        """
        named = [*module.named_parameters(), *module.named_buffers()]
        sums = torch.stack([t.detach().double().sum().nan_to_num(0.5).to(self.root_device) for _, t in named])
        least, most = sums.clone(), sums.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        different = [name for (name, _), equal in zip(named, (least == most).tolist(), strict=True) if not equal]
        if different:
            raise RuntimeError(
                f"{different[0]} differs between processes, and {len(different) - 1} more: the checkpoint would not be "
                "the run that they trained. What drives it must be reduced over processes where it is computed"
            )


def by_dtype(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Group tensors that one flat buffer can hold."""
    groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.numel():
            groups[tensor.dtype].append(tensor)
    return list(groups.values())


def scatter(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy a flat buffer back into the tensors that it was made of."""
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])
