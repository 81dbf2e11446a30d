"""What an experiment was made on, and the memory that it took."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware(device: torch.device | str | None = None) -> str:
    """Name a device, by default the GPU where there is one; of processors, the cores that torch uses."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        return f"1 {torch.cuda.get_device_name(chosen)}"
    return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"


def high_water() -> int:
    """Read the most memory that this process has had, in bytes; Linux alone tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
