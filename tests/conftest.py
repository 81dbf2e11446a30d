"""Tests write to a cache of their own and to no dashboard."""

import os
import shutil
import tempfile

os.environ["WANDB_MODE"] = "disabled"
os.environ["LIGHTNING_AVATARS_CACHE"] = tempfile.mkdtemp(prefix="lightning-avatars-tests-")


def pytest_sessionfinish():
    shutil.rmtree(os.environ["LIGHTNING_AVATARS_CACHE"], ignore_errors=True)
