"""What networks over sequences of tokens look like to everyone else, and how sequences are drawn from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class State:
    """What a network keeps of the tokens that it has seen.

    Args:
        length: How many tokens of each sequence that were.
    """

    length: int


class SequenceNetwork(nn.Module, ABC):
    """A network that foretells, for each token of a sequence, the next one.

    Tokens are whole numbers below ``vocabulary``; the number ``vocabulary`` itself stands before the first of them.

    Args:
        vocabulary: Number of different tokens.
        length: Tokens of a sequence, at most.
        label_dim: Length of the label vectors; 0 for an unconditional network.
    """

    def __init__(self, vocabulary: int, length: int, label_dim: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.length, self.label_dim = vocabulary, length, label_dim

    @abstractmethod
    def initial_state(self, count: int) -> State:
        """Return the state of ``count`` sequences that have not begun."""

    @abstractmethod
    def forward(
        self, tokens: Tensor, labels: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """Foretell what follows each token.

        Args:
            tokens: N T, up to ``vocabulary``; they follow those that the state has seen.
            labels: N x label_dim, the same for all tokens of a sequence.
            state: Where a sequence is gone on with, without gradients. The call uses it up: go on from the returned
                one. None for sequences that are whole, of which nothing is kept.

        Returns:
            Logits in float32, N T vocabulary, and the next state where there was one.
        """


def log_likelihood(network: SequenceNetwork, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the logarithm of each token's probability given those before it, in nats, N T."""
    before = F.pad(tokens[:, :-1], (1, 0), value=network.vocabulary)
    logits, _ = network(before, labels)
    return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")


class TokenSampling:
    """How tokens are drawn from what a network foretells.

    Args:
        temperature: Logits are divided by it: below 1, likely tokens become likelier.
        top_k: Only so many of the likeliest tokens are drawn from, and those that equal the last of them; null for all.
        nucleus: Only the likeliest tokens that together have this probability are drawn from (Holtzman et al. 2020).
        guidance: How much further than from no labels to the labels logits go (Ho and Salimans 2021): 1 for the labels
            alone, without the second pass that all else needs.
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, nucleus: float = 1.0, guidance: float = 1.0
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}; top_k: 1 always draws the likeliest")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, or null for all tokens, got {top_k}")
        if not 0 < nucleus <= 1:
            raise ValueError(f"nucleus is a probability in (0, 1], got {nucleus}")
        if guidance < 0:
            raise ValueError(f"guidance must be 0 or more, got {guidance}")
        self.temperature, self.top_k, self.nucleus, self.guidance = temperature, top_k, nucleus, guidance

    def draw(self, network: SequenceNetwork, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw sequences token by token, without gradients.

        Args:
            network: Foretells the tokens.
            uniforms: A number in [0, 1) for each token, N T, on the network's device.
            labels: N x label_dim.

        Returns:
            Tokens, N T.
        """
        with torch.inference_mode():  # a tenth faster than no_grad: a token's time is that of many small calls
            tokens = self.one_by_one(network, uniforms, labels)
        return tokens.clone()  # which may take part in training

    def one_by_one(self, network: SequenceNetwork, uniforms: Tensor, labels: Tensor | None) -> Tensor:
        """Draw sequences as ``draw`` does."""
        count = len(uniforms)
        guided = self.guidance != 1 and labels is not None
        both = torch.cat([labels, torch.zeros_like(labels)]) if guided and labels is not None else labels
        state: State | None = network.initial_state(2 * count if guided else count)
        tokens = torch.full((count, 1), network.vocabulary, device=uniforms.device)
        drawn = []
        for uniform in uniforms[..., None].unbind(1):
            logits, state = network(tokens.repeat(2, 1) if guided else tokens, both, state)
            logits = logits[:, -1]
            if guided:
                logits = torch.lerp(logits[count:], logits[:count], self.guidance)
            tokens = self.choose(logits, uniform)
            drawn.append(tokens)
        return torch.cat(drawn, 1)

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Draw a token for each row of logits, N V, by inverting the cumulated probabilities at ``uniform``, N x 1."""
        cumulated = self.probabilities(logits).cumsum(1)
        place = torch.searchsorted(cumulated, uniform.to(cumulated) * cumulated[:, -1:], right=True)
        return place.clamp_(max=logits.shape[1] - 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, N V, into the probabilities that tokens are drawn with: float64 on devices that have it."""
        logits = logits.float() if logits.device.type == "mps" else logits.double()
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            lowest = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < lowest, -torch.inf)
        if self.nucleus < 1:
            logits = logits.masked_fill(outside_nucleus(logits.softmax(1), self.nucleus), -torch.inf)
        return logits.softmax(1)


def outside_nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Tell which tokens, N V, are not among the fewest likeliest ones that have at least this share together."""
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    above = ordered.cumsum(1) - ordered >= share  # what likelier ones have, without this one
    above[:, 0] = False
    return torch.zeros_like(above).scatter(1, order, above)
