"""A decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019), as VQGAN's prior (Esser et al. 2021) is one.

Blocks normalise what goes into them. Departures from VQGAN: labels are a vector that is added to every token's, as
attributes are many, where the paper puts a class before the first token; positions may be rotary (Su et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_avatars.networks.layers.labels import LabelEmbedding
from lightning_avatars.networks.sequence import SequenceNetwork, State

STD = 0.02  # of weights at the start


@dataclass
class KeyValues(State):
    """Keys and values of the tokens seen, with room for those to come.

    Args:
        length: How many tokens have been seen.
        kept: A tensor for each layer: keys and values, 2 N heads room width of a head.
    """

    kept: tuple[Tensor, ...]


class Transformer(SequenceNetwork):
    """Attention to all earlier tokens and a small network for each of them, in turns.

    Args:
        vocabulary: Number of different tokens.
        length: Tokens of a sequence, at most.
        label_dim: Length of the label vectors; 0 for an unconditional network.
        width: Numbers that stand for a token, a multiple of ``heads``.
        layers: Blocks of an attention and a small network.
        heads: Attentions in a block, side by side.
        rotary: Whether the angle between queries and keys tells the distance of tokens; else each place has a vector
            that is learned.
        dropout: Share of numbers that are set to zero in training: of attention and of what goes into the sum.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        label_dim: int = 0,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        rotary: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocabulary, length, label_dim)
        check_sizes(width, layers, heads, rotary, dropout)
        self.words = nn.Embedding(vocabulary + 1, width)
        self.places = None if rotary else nn.Parameter(STD * torch.randn(length, width))
        self.labels = LabelEmbedding(label_dim, width, STD) if label_dim else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()  # which takes less of a drawn token's time
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.heads = heads
        self.apply(initialise)
        for name, weight in self.blocks.named_parameters():  # what is summed up grows (Radford et al. 2019, Sec. 2.3)
            if name.endswith(("output.weight", "second.weight")):
                nn.init.normal_(weight, std=STD * (2 * layers) ** -0.5)

    def initial_state(self, count: int) -> KeyValues:
        width = self.words.embedding_dim // self.heads
        shape = (2, count, self.heads, self.length, width)
        return KeyValues(0, tuple(self.head.weight.new_zeros(shape) for _ in self.blocks))

    def forward(
        self, tokens: Tensor, labels: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, KeyValues | None]:
        first = state.length if state is not None else 0
        last = first + tokens.shape[1]
        if last > self.length:
            raise ValueError(f"this network was built for sequences of {self.length} tokens, and got {last}")
        x = self.words(tokens)
        if self.places is not None:
            x = x + self.places[first:last]
        if self.labels is not None:
            x = x + self.labels(labels)[:, None]
        x = self.dropout(x)
        turns = None if self.places is not None else angles(first, last, x.shape[2] // self.heads, x.device)
        kept = state.kept if isinstance(state, KeyValues) else None
        for number, block in enumerate(self.blocks):
            x = block(x, turns, first, None if kept is None else kept[number])
        logits: Tensor = self.head(self.norm(x)).float()
        return logits, None if kept is None else KeyValues(last, kept)


class Block(nn.Module):
    """Attention, then a network of one hidden layer for each token; both add to what they are given.

    Args:
        width: Numbers that stand for a token.
        heads: Attentions side by side.
        dropout: Share of numbers that are set to zero in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.norm, self.first, self.second = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, turns: Tensor | None, first: int, kept: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), turns, first, kept))
        added: Tensor = self.dropout(self.second(F.gelu(self.first(self.norm(x)))))
        return x + added


class Attention(nn.Module):
    """Attention of each token to itself and to all before it.

    Args:
        width: Numbers that stand for a token.
        heads: Attentions side by side.
        dropout: Share of the attention that is set to zero in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, turns: Tensor | None = None, first: int = 0, kept: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: N T width.
            turns: Rotary positions of these tokens, T x half a head's width; None where positions are learned.
            first: How many tokens are kept.
            kept: Their keys and values, 2 N heads room width, whose room is filled; None where there are no others.
        """
        parts = self.inputs(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if turns is not None:
            parts = torch.cat([turned(parts[:2], turns), parts[2:]])
        if kept is None:
            query, key, value = parts.unbind()  # N heads T width
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        else:
            count, last = x.shape[1], first + x.shape[1]
            kept.narrow(3, first, count).copy_(parts[1:])  # faster than to index
            key, value = kept.narrow(3, 0, last).unbind()
            seen = None if count == 1 else x.new_ones(count, last, dtype=torch.bool).tril(first)
            y = F.scaled_dot_product_attention(parts[0], key, value, attn_mask=seen)
        added: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return added


def angles(first: int, last: int, width: int, device: torch.device) -> Tensor:
    """Angles by which pairs of numbers are turned at some places, T x width / 2 (Su et al. 2021, Eq. 15)."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    return torch.arange(first, last, device=device)[:, None] * frequencies


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of numbers, one of either half of ... T width, by its angle (Su et al. 2021, Eq. 34)."""
    a, b = x.float().chunk(2, -1)
    cosine, sine = turns.cos(), turns.sin()
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1).to(x.dtype)


def initialise(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and start biases at zero (Radford et al. 2018, Sec. 4.1)."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def check_sizes(width: int, layers: int, heads: int, rotary: bool, dropout: float) -> None:
    """Raise a ValueError where no transformer has such sizes."""
    if min(width, layers, heads) < 1 or width % heads:
        raise ValueError(f"width must be a multiple of heads, and layers at least 1; got {width}, {heads} and {layers}")
    if rotary and width // heads % 2:
        raise ValueError(f"rotary positions turn pairs of numbers: width / heads must be even, got {width} / {heads}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a share in [0, 1), got {dropout}")
