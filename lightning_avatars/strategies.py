"""Data parallelism that averages the gradients of the player that steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

GRADIENT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # whole numbers of so many bytes
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX = 0xBF58476D1CE4E5B9 - (1 << 64)
BUCKET = 4 << 20  # bytes of gradients that travel at once; one flat buffer takes gloo twice as long
PIECE = 1 << 18  # words that are mixed at a time, so that they stay in a processor's cache


class PhaseDDP(DDPStrategy):
    """Data parallelism for modules whose players take turns.

    There is no wrapper around the module: its state is broadcast once, and the module asks for the reduction of one
    player's gradients after that player's backward passes. Lightning's own DDP fails on such modules, for it expects
    every parameter in every backward pass.

    Args:
        gradient_dtype: Type in which gradients travel between processes; by default their own. bfloat16 halves the
            bytes and rounds each gradient to eight bits: for slow networks between GPUs; on a CPU it is slower.
        kwargs: Of Lightning's DDPStrategy.
    """

    def __init__(
        self,
        gradient_dtype: Literal["float32", "bfloat16"] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        self.gradient_dtype = GRADIENT_DTYPES[gradient_dtype] if gradient_dtype else None

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
        present = torch.tensor([not absent for absent in missing], dtype=torch.float32).to(self.root_device)
        self.average([present, *(p.grad for p in owners)])
        if any(missing):
            for p, share in zip(owners, present.tolist(), strict=True):
                if share == 0:
                    p.grad = None

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over processes; some travel while the next ones are put together."""
        under_way = []
        for bucket in buckets(tensors):
            flat = torch.cat([t.flatten() for t in bucket])
            sent = flat.to(self.gradient_dtype or flat.dtype)
            under_way.append((dist.all_reduce(sent, async_op=True), sent, flat.dtype, bucket))
        for work, sent, dtype, bucket in under_way:
            work.wait()
            scatter(sent.to(dtype) / self.world_size, bucket)

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
        digests = torch.stack([digest(t).to(self.root_device) for _, t in named])
        extremes = torch.stack([digests, ~digests])  # the least of what is turned around is the most
        dist.all_reduce(extremes, dist.ReduceOp.MIN)
        least, most = extremes[0], ~extremes[1]
        different = [name for (name, _), equal in zip(named, (least == most).tolist(), strict=True) if not equal]
        if different:
            raise RuntimeError(
                f"{different[0]} differs between processes, and {len(different) - 1} more: the checkpoint would not be "
                "the run that they trained. What drives it must be reduced over processes where it is computed"
            )


def digest(tensor: Tensor) -> Tensor:
    """Boil a tensor's bits down to 64 of them, each at its place: any change of one number changes them.

    Each word and its place are mixed as SplitMix64's finaliser begins (Steele et al. 2014), and all are added up.
    """
    flat = tensor.detach().flatten()
    words = flat.view(WORDS.get(flat.element_size(), torch.int64))
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for first in range(0, len(words), PIECE):
        x = words[first : first + PIECE].to(torch.int64, copy=True)
        x += torch.arange(first + 1, first + 1 + len(x), device=x.device).mul_(GOLDEN)
        x ^= x >> 30
        x *= MIX
        x ^= x >> 27
        total += x.sum()
    return total


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Put tensors together that are sent at once."""
    bucket, size = [], 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


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
