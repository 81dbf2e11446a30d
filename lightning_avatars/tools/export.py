"""A trained generator in one file that anyone may open."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from lightning_avatars.checkpoints import export_weights, load_module
from lightning_avatars.families.base import GenerativeModule


def export(what: Literal["weights"], checkpoint: Path, output: Path | None = None) -> None:
    """Write a checkpoint's averaged generator and its configuration as safetensors, for ``sample`` and ``evaluate``.

    Args:
        what: ``weights``.
        checkpoint: A checkpoint written by ``fit``.
        output: The file; by default ``<checkpoint>.safetensors`` beside it.

    Raises:
        ValueError: the checkpoint makes no pictures.
    """
    module = load_module(checkpoint)
    if not isinstance(module, GenerativeModule):
        raise ValueError(f"{checkpoint} holds a {type(module).__name__}, which makes no pictures")
    path = output or checkpoint.with_suffix(".safetensors")
    export_weights(module, path)
    size = path.stat().st_size / 2**20
    Console(stderr=True).print(f"{size:,.1f} MiB: [bold]{path}[/bold]", soft_wrap=True)
