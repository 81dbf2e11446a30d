"""One network for each domain, on batches whose domains take turns (CycleGAN, Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.translator import Translator


def rows_by_network(x: Tensor, pattern: tuple[int, ...], networks: int) -> dict[int, Tensor]:
    """Part a batch's rows by the network they go through: row i goes through number ``pattern[i % len(pattern)]``.

    Raises:
        ValueError: The batch has no whole number of patterns, or the pattern names a network that is not there.
    """
    if not pattern or not all(0 <= number < networks for number in pattern):
        raise ValueError(f"a pattern is of numbers from 0 to {networks - 1}, one for each row in turn, got {pattern}")
    if len(x) % len(pattern):
        raise ValueError(f"{len(x)} images are no whole number of the {len(pattern)} domains that take turns")
    if len(set(pattern)) == 1:
        return {pattern[0]: x}
    turns = turns_of(x, len(pattern))
    places = {number: [i for i, at in enumerate(pattern) if at == number] for number in sorted(set(pattern))}
    return {number: rows_in_place([turns[i] for i in found]) for number, found in places.items()}


def turns_of(x: Tensor, count: int) -> list[Tensor]:
    """Part rows that take turns: every first one of ``count``, every second one, and so on."""
    return list(x.reshape(-1, count, *x.shape[1:]).unbind(1))


def rows_in_place(turns: list[Tensor]) -> Tensor:
    """Join rows that take turns: the first of each, then the second of each, and so on."""
    return turns[0] if len(turns) == 1 else torch.stack(turns, 1).flatten(0, 1)


def rows_together(parts: dict[int, Tensor], pattern: tuple[int, ...]) -> Tensor:
    """Undo ``rows_by_network``."""
    if len(parts) == 1:
        return parts[pattern[0]]
    turns = {number: iter(turns_of(part, pattern.count(number))) for number, part in parts.items()}
    return rows_in_place([next(turns[number]) for number in pattern])


def one_for_each(make: Callable[[], nn.Module], domain_names: Sequence[str]) -> nn.ModuleDict:
    """Make a network for each domain, one after the other.

    Raises:
        ValueError: The domains are fewer than two, not all different, or have names that no network can have.
    """
    if len(domain_names) < 2 or len(set(domain_names)) < len(domain_names):
        raise ValueError(
            f"networks for each domain are of two domains or more, all different, got {list(domain_names)}: use data "
            "that have domains"
        )
    try:
        return nn.ModuleDict({name: make() for name in domain_names})
    except KeyError as error:  # a dot, an empty name, or that of a method
        raise ValueError(f"a domain cannot have this name: {error}. Give it another") from error


class PerDomainTranslator(nn.Module):
    """A translator for each domain; ``networks`` has them by name.

    Args:
        make: Makes a translator; called once for each domain.
        domain_names: Names of the domains; they come from the data.
    """

    def __init__(self, make: Callable[[], Translator], domain_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.networks = one_for_each(make, domain_names)

    @property
    def each(self) -> list[Translator]:
        """The networks in the order of their domains."""
        return cast("list[Translator]", list(self.networks.values()))

    @property
    def multiple(self) -> int:
        """Heights and widths that the networks take are multiples of this."""
        return self.each[0].multiple

    def forward(self, source: Tensor, pattern: tuple[int, ...]) -> Tensor:
        """Translate rows i, i + K, … by network number ``pattern[i]``, with K the length of ``pattern``.

        Each network is called once, with all its rows; N is a multiple of K.
        """
        networks = self.each
        parts = rows_by_network(source, pattern, len(networks))
        return rows_together({number: networks[number](rows) for number, rows in parts.items()}, pattern)


class PerDomainDiscriminator(nn.Module):
    """A discriminator for each domain; ``networks`` has them by name.

    Args:
        make: Makes a discriminator; called once for each domain.
        domain_names: Names of the domains; they come from the data.
    """

    def __init__(self, make: Callable[[], Discriminator], domain_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.networks = one_for_each(make, domain_names)

    @property
    def each(self) -> list[Discriminator]:
        """The networks in the order of their domains."""
        return cast("list[Discriminator]", list(self.networks.values()))

    @property
    def heads(self) -> dict[str, int]:
        """Lengths of the heads in the verdicts, by name."""
        return self.each[0].heads

    def forward(self, x: Tensor, pattern: tuple[int, ...]) -> Verdict:
        """Judge rows i, i + K, … by network number ``pattern[i]``, with K the length of ``pattern``.

        Each network is called once, with all its rows; N is a multiple of K. Verdicts have no features: these would be
        copied, and nothing matches them where there are no pairs.
        """
        networks = self.each
        parts = rows_by_network(x, pattern, len(networks))
        said: dict[int, Verdict] = {number: networks[number](rows) for number, rows in parts.items()}
        first = said[pattern[0]]
        return Verdict(
            [rows_together({n: said[n].logits[i] for n in said}, pattern) for i in range(len(first.logits))],
            heads={name: rows_together({n: said[n].heads[name] for n in said}, pattern) for name in first.heads},
        )
