"""Memory for time: parts of a network whose activations are computed again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lightning_avatars.networks.layers.quantizers import quantizers_of
from lightning_avatars.second_order import of_checkpoints


def recompute(module: nn.Module, parts: list[str]) -> None:
    """Let parts of a module keep their inputs alone, and run again when their gradients are needed; keys stay.

    Gradients of gradients, as R1 takes them, are the same too. Parts that do so already are left as they are.

    Args:
        module: The module.
        parts: Names of submodules, such as ``generator.stages``; of a list of stages, each is a part of its own.

    Raises:
        ValueError: There is no such part, or it holds batch norm or a codebook, whose statistics would move twice.
    """
    for name in parts:
        try:
            part = module.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"recompute names {name!r}, which is no part of the model ({error})") from error
        for stage in part if isinstance(part, nn.ModuleList) else [part]:
            if any(isinstance(layer, _BatchNorm) for layer in stage.modules()):
                raise ValueError(f"recompute names {name!r}, whose batch norm would count every image twice")
            if quantizers_of(stage):
                raise ValueError(f"recompute names {name!r}, whose codebook would learn from every image twice")
            if getattr(stage.forward, "func", None) is not checkpoint:
                stage.forward = partial(checkpoint, stage.forward, use_reentrant=False, context_fn=of_checkpoints)
