"""Modules rebuilt from nothing but a checkpoint's path."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from lightning_avatars.families.base import FaceModule


def load_module(path: Path, device: torch.device | str = "cpu") -> FaceModule:
    """Rebuild the module that a checkpoint of the command line holds, ready to be used.

    Nothing is unpickled but tensors and plain values.

    Args:
        path: The checkpoint.
        device: Where the module goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds no configuration.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ValueError(f"{path} can't be read as a checkpoint of tensors and plain values") from error
    if not isinstance(checkpoint, dict) or not checkpoint.get("config"):
        raise ValueError(
            f"{path} holds no configuration, so its model can't be rebuilt: it was not written by `lightning-avatars "
            "fit`. Build the module in Python and use its load_state_dict"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FaceModule, "model")
    config = parser.parse_object({"model": checkpoint["config"]["model"]})
    module = parser.instantiate_classes(config).model
    module.load_state_dict(checkpoint["state_dict"])
    module.config = checkpoint["config"]
    return module.eval().to(device)
