"""What an experiment was made on."""

from __future__ import annotations

import os
import platform

import torch


def hardware(device: torch.device) -> str:
    """Name a GPU, or count the cores."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return f"{name} ({platform.machine()})"
