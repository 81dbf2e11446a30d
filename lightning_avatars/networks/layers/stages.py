"""How networks that double or halve their resolution are laid out."""

from __future__ import annotations


def doublings(resolution: int, lowest: int, highest: int) -> int:
    """How many times 4 x 4 doubles until it is ``resolution``.

    Raises:
        ValueError: If ``resolution`` is not a power of two in [lowest, highest].
    """
    if resolution & (resolution - 1) or not lowest <= resolution <= highest:
        raise ValueError(
            f"resolution must be a power of two from {lowest} to {highest}, got {resolution}: set data.resolution"
        )
    return resolution.bit_length() - 3
