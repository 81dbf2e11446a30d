"""How networks that double or halve their resolution are laid out."""

from __future__ import annotations


def at_least_one(**sizes: int) -> None:
    """Raise a ValueError that names the first of some sizes that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


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


def stage_widths(resolution: int, width: int, max_width: int, lowest: int = 8, highest: int = 1024) -> list[int]:
    """Channels at 4 x 4, 8 x 8, … up to the resolution, where there are ``width``: twice as many with each halving."""
    at_least_one(width=width, max_width=max_width)
    return [min(width << i, max_width) for i in reversed(range(doublings(resolution, lowest, highest) + 1))]
