"""The device that a tool works on, by the name it was given."""

from __future__ import annotations

import torch


def device_of(name: str) -> torch.device:
    """Find a device by name, or for ``auto`` a GPU where there is one.

    Raises:
        ValueError: It can't be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {name} can't be used: {str(error).splitlines()[0]}") from error
