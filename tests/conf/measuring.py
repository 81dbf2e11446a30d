"""Real data for tests, which never comes with the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def shared(name: str) -> Path:
    """Locate measuring data, or skip the test where there is none."""
    path = ROOT / os.environ.get("LIGHTNING_AVATARS_SHARED", "../shared") / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder that LIGHTNING_AVATARS_SHARED names (by default ../shared)")
    return path
