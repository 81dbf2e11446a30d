"""Bottlenecks whose latents are words of a codebook, one for each place.

vector-quantize-pytorch has these too, but restarts words by hidden draws from each process's generator: neither a
resumed run nor one on more processes would be the same run.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_avatars.metrics.processes import add_up, rank_and_world
from lightning_avatars.networks.layers.bottlenecks import Bottleneck, Encoded
from lightning_avatars.seeding import derive

SMOOTHING = 1e-5  # of the counts of words (Laplace)
FRACTION = 20  # bits of a draw


class Quantizer(Bottleneck):
    """A bottleneck whose latents are words of a codebook; all words are as likely before an image is seen.

    A word is alive if one of the latest ``patience * codebook`` codes of the training images used it. What is known of
    the words' use is kept in buffers, the same on all processes.

    Args:
        codebook: Number of words, K.
        width: Length of a word, D; the features are as many.
        patience: Codes per word that a word may go unused.
    """

    seed = 0  # of its draws: families set that of their run as training begins
    usage: Tensor  # K: running counts, whose half-life is ``window`` codes
    unused: Tensor  # K: codes since each word was used

    def __init__(self, codebook: int, width: int, patience: int) -> None:
        super().__init__(width, width)
        if codebook < 2 or patience < 1:
            raise ValueError(
                f"a codebook must have at least 2 words, and patience of at least 1 code for each; got {codebook} "
                f"and {patience}"
            )
        self.codebook, self.window = codebook, patience * codebook
        self.register_buffer("usage", torch.zeros(codebook))
        self.register_buffer("unused", torch.full((codebook,), self.window))

    @abstractmethod
    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Find words for vectors, V D: their numbers, V, they with straight-through gradients, V D, and losses.

        In training the codebook, if it learns by itself, and the words' use follow.
        """

    @abstractmethod
    def find(self, vectors: Tensor) -> Tensor:
        """Return the numbers, V, of the words for vectors, V D."""

    @abstractmethod
    def words(self, codes: Tensor) -> Tensor:
        """Return the words, … D, that have these numbers."""

    def forward(self, features: Tensor) -> Encoded:
        images, _, height, width = features.shape
        with torch.autocast(features.device.type, enabled=False):
            codes, words, losses = self.quantize(vectors_of(features))
        codes = codes.view(images, height, width)
        rate = words.new_full((images,), height * width * math.log(self.codebook))
        return Encoded(words.view(images, height, width, -1).permute(0, 3, 1, 2), [rate], losses, codes)

    def codes(self, features: Tensor) -> Tensor:
        """Return the numbers of the words, N h w, for features, N D h w."""
        with torch.autocast(features.device.type, enabled=False):
            return self.find(vectors_of(features)).view(len(features), *features.shape[2:])

    def embed(self, codes: Tensor) -> Tensor:
        """Return the latents, N D h w, that words' numbers, N h w, stand for."""
        return self.words(codes).permute(0, 3, 1, 2)

    def mean(self, features: Tensor) -> Tensor:
        return self.embed(self.codes(features))

    def from_normal(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers, N D h w, into words that are as likely as each other."""
        uniform = torch.special.ndtr(noise.float().sum(1) / math.sqrt(noise.shape[1]))
        return self.embed((uniform * self.codebook).long().clamp(max=self.codebook - 1))

    def perplexity(self) -> Tensor:
        """Return the perplexity of the words' running use: the number of equally used ones with that entropy."""
        share = self.usage / self.usage.sum().clamp(min=torch.finfo(self.usage.dtype).tiny)
        entropy: Tensor = torch.special.entr(share).sum()
        return entropy.exp()

    def alive(self) -> Tensor:
        """Return the share of the words that are alive."""
        return (self.unused < self.window).float().mean()

    def check(self, pictures: int, places: int) -> None:
        """Refuse a codebook that is larger than the training data supports.

        Args:
            pictures: Number of training pictures.
            places: Codes of each of them.
        """
        codes = pictures * places
        if codes < self.codebook:
            raise ValueError(
                f"the codebook has {self.codebook} words, but {pictures} training pictures with {places} codes each "
                f"have only {codes} to be described by them: give it at most {codes // 10} words, or more data"
            )
        if codes < 10 * self.codebook:
            warnings.warn(
                f"the codebook's {self.codebook} words will describe {codes} codes of {pictures} training pictures and "
                f"may learn {codes / self.codebook:.1f} codes each by heart: give it fewer words, or more data",
                stacklevel=2,
            )

    @torch.no_grad()
    def note(self, counts: Tensor, codes: int) -> None:
        """Note how often words, K, were used by so many codes of all processes."""
        self.usage.mul_(0.5 ** (codes / self.window)).add_(counts)
        self.unused.add_(codes).mul_(counts == 0).clamp_(max=self.window)


class VectorQuantizer(Quantizer):
    """The nearest of words that follow the means of what they stand for (van den Oord et al. 2017, Appendix A.1).

    Counts are smoothed as in Razavi et al. 2019. Words that are not alive start anew from outputs of the encoder, drawn
    evenly from the batch (Dhariwal et al. 2020, Sec. 3.1); so does the whole codebook with the first batch. Each
    forward pass in training moves the codebook, as batch norm's statistics. Gradients go straight through (Eq. 3).

    Args:
        codebook: Number of words.
        width: Length of a word.
        decay: Share of the running counts and sums that a batch leaves.
        commitment: Weight of the mean squared distance of the encoder's outputs from their words (Eq. 3: beta).
        normalized: Compare directions: outputs and words have length 1 (Yu et al. 2022, Sec. 3.2).
        patience: Codes per word that a word may go unused before it starts anew; 0 never lets one start anew.
    """

    codewords: Tensor  # K D
    counts: Tensor  # K
    sums: Tensor  # K D
    rested: Tensor  # K: codes since each word started anew
    updates: Tensor

    def __init__(
        self,
        codebook: int = 512,
        width: int = 64,
        decay: float = 0.99,
        commitment: float = 0.25,
        normalized: bool = False,
        patience: int = 256,
    ) -> None:
        super().__init__(codebook, width, patience or 256)
        if not 0 <= decay < 1:
            raise ValueError(f"decay of a codebook must be from 0 to below 1, got {decay}")
        self.decay, self.commitment, self.normalized, self.restarts = decay, commitment, normalized, patience > 0
        codewords = torch.randn(codebook, width)
        codewords = normalize(codewords, dim=1) if normalized else codewords
        self.register_buffer("codewords", codewords)
        self.register_buffer("counts", torch.ones(codebook))
        self.register_buffer("sums", codewords.clone())
        self.register_buffer("rested", torch.full((codebook,), self.window))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        vectors = normalize(vectors, dim=1) if self.normalized else vectors
        codes = self.nearest(vectors.detach())
        words = self.words(codes)
        commitment = self.commitment * (vectors - words).square().mean()
        if self.training:
            self.learn(vectors.detach(), codes)
        return codes, vectors + (words - vectors).detach(), {"commitment": commitment}

    def find(self, vectors: Tensor) -> Tensor:
        return self.nearest(normalize(vectors, dim=1) if self.normalized else vectors)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the numbers of the words that are nearest to vectors."""
        squares = self.codewords.square().sum(1)
        return torch.addmm(squares, vectors, self.codewords.T, alpha=-2).argmin(1)

    def words(self, codes: Tensor) -> Tensor:
        return self.codewords[codes]

    @torch.no_grad()
    def learn(self, vectors: Tensor, codes: Tensor) -> None:
        """Move the words towards the means of their vectors over all processes, which hold as many of them."""
        rank, world = rank_and_world()
        local, total = len(vectors), len(vectors) * world
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        drawn = draw_places(self.seed, self.updates, self.codebook, total)
        fresh = vectors[(drawn - rank * local).clamp(0, local - 1)] * (drawn // local == rank)[:, None]
        found = torch.cat([sums, count(codes, self.codebook)[:, None], fresh], 1)
        add_up(found)
        sums, counts, fresh = torch.split(found, [self.width, 1, self.width], 1)
        counts = counts[:, 0]
        self.note(counts, total)

        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)  # Eq. 6
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)  # Eq. 7
        self.rested.add_(total).clamp_(max=self.window)
        if self.restarts:
            self.start_anew(fresh, total)
        everything = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (everything + self.codebook * SMOOTHING) * everything
        codewords = self.sums / smoothed[:, None]  # Eq. 8
        self.codewords.copy_(normalize(codewords, dim=1) if self.normalized else codewords)
        self.updates.add_(1)

    def start_anew(self, fresh: Tensor, total: int) -> None:
        """Put the words that are not alive where the encoder's outputs are, with the weight of an even share."""
        dead = (self.unused >= self.window) & (self.rested >= self.window)
        share = (1 - self.decay) * total / self.codebook
        self.sums.copy_(torch.where(dead[:, None], fresh * share, self.sums))
        self.counts.masked_fill_(dead, share)
        self.rested.masked_fill_(dead, 0)


class FiniteScalarQuantizer(Quantizer):
    """Each channel rounded to one of a few levels; every combination is a word (Mentzer et al. 2023, Sec. 3.1).

    Nothing is learned, nothing has to be restarted, and there is no loss beside.

    Args:
        levels: Levels of each channel, at least 3; the paper advises 5 and more: 8 5 5 5 are 1,000 words, 7 5 5 5 5
            are 4,375.
    """

    levels: Tensor
    steps: Tensor

    def __init__(self, levels: tuple[int, ...] | list[int] = (8, 5, 5, 5)) -> None:
        if not levels or min(levels) < 3:
            raise ValueError(f"every channel of a finite scalar quantiser needs at least 3 levels, got {list(levels)}")
        super().__init__(math.prod(levels), len(levels), patience=256)
        steps = [math.prod(levels[:channel]) for channel in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    def bounded(self, vectors: Tensor) -> Tensor:
        """Press vectors smoothly into what rounds to the levels: -2 … 2 of five, -2 … 1 of four; 0 stays 0."""
        half = (self.levels - 1) * (0.5 - 5e-4)  # rounding must not leave the range
        offset = 0.5 * (self.levels % 2 == 0)
        return (vectors + (offset / half).atanh()).tanh() * half - offset

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        bounded = self.bounded(vectors)
        rounded = bounded + (bounded.round() - bounded).detach()
        codes = self.numbers(rounded.detach().round())
        if self.training:
            total = len(codes) * rank_and_world()[1]
            counts = count(codes, self.codebook)
            add_up(counts)
            self.note(counts, total)
        return codes, rounded / (self.levels // 2), {}

    def find(self, vectors: Tensor) -> Tensor:
        return self.numbers(self.bounded(vectors).round())

    def numbers(self, rounded: Tensor) -> Tensor:
        """Count through the combinations of levels."""
        return ((rounded.long() + self.levels // 2) * self.steps).sum(-1)

    def words(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.steps % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


def vectors_of(features: Tensor) -> Tensor:
    """Lay the places of features, N D h w, out as vectors, (N h w) D, in float32 at least."""
    vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def count(codes: Tensor, codebook: int) -> Tensor:
    """Count how often each word is used, K."""
    ones = torch.ones(len(codes), device=codes.device)
    return torch.zeros(codebook, device=codes.device).index_add_(0, codes, ones)


def draw_places(seed: int, updates: Tensor, words: int, total: int) -> Tensor:
    """Draw a place below ``total`` for each word, one from each of as many equal stretches.

    Whole numbers throughout, on the device and a pure function of the run's seed and the number of updates (the
    SplitMix64 finaliser of Steele et al. 2014), so that all processes draw the same and none has to wait for the
    device.
    """
    number = torch.arange(words, device=updates.device)
    x = (derive(seed, "restart") + updates * words + number) * -0x61C8864680B583EB  # the golden ratio, modulo 2^64
    x = (x ^ shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted(x, 27)) * -0x6B2FB644ECCEEE15
    fraction = shifted(x ^ shifted(x, 31), 64 - FRACTION)
    return ((number << FRACTION) + fraction) * total // (words << FRACTION)


def shifted(x: Tensor, bits: int) -> Tensor:
    """Shift whole numbers to the right as if they had no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def quantizers_of(network: nn.Module) -> list[Quantizer]:
    """Find the quantisers in a network."""
    return [layer for layer in network.modules() if isinstance(layer, Quantizer)]
