"""What everyone else measures: the Fréchet distance of a checkpoint's samples in Inception's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_avatars.checkpoints import load_module
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.evaluation.samples import real_pictures, score_samples
from lightning_avatars.families.base import GenerativeModule
from lightning_avatars.matching import data_of


def in_inceptions_features(checkpoint: Path, images: int) -> dict[str, Any]:
    """Score samples of a checkpoint against the val split of the data that it was trained on.

    Against the train split it would be three times as much work, nearly all of it the reference's, which is kept in the
    cache.

    Args:
        checkpoint: Of a model that draws samples.
        images: How many samples.

    Returns:
        Scores and their passport, for JSON.
    """
    module = load_module(checkpoint)
    assert isinstance(module, GenerativeModule) and module.config is not None  # all of the leaderboard are
    data = data_of(module.config)
    data.prepare_data()
    data.setup("test")
    found = score_samples(module.eval(), real_pictures(data, "val"), [load_extractor("inception")], images).plain()
    return {part: found[part] for part in ("scores", "passport")}
