"""Tiny data, networks and games of translation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.families.domain_translation import DomainTranslation, OneWayTranslation
from lightning_avatars.families.paired_translation import PairedTranslation
from lightning_avatars.families.step import Player, Step
from lightning_avatars.families.translation import Translation
from lightning_avatars.images import to_float
from lightning_avatars.networks.base import Discriminator, Verdict
from lightning_avatars.networks.feature_encoder import FeatureEncoder
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.networks.multiscale import MultiScaleDiscriminator
from lightning_avatars.networks.per_domain import PerDomainDiscriminator, PerDomainTranslator
from lightning_avatars.networks.pix2pixhd import Pix2PixHDTranslator
from lightning_avatars.networks.spade import SPADETranslator
from lightning_avatars.networks.translator import Translator
from lightning_avatars.objectives.adversarial import LeastSquares, NonSaturating, Wasserstein
from lightning_avatars.pool import HistoryPool
from lightning_avatars.schedules import Steps
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.classification import Classification
from lightning_avatars.terms.contrastive import PatchNCE
from lightning_avatars.terms.cycle import Cycle, Identity
from lightning_avatars.terms.features import FeatureMatching
from lightning_avatars.terms.gradients import GradientPenalty
from lightning_avatars.terms.reconstruction import L1
from tests.conf.tiny import TinyFaces

PARTS = ["nothing", "disc", "heart"]


class TinyPairs(FaceDataset):
    """Discs of some colour with a dot, of which the map and the dot's colour tell all.

    Args:
        count: Pictures.
        maps: Whether there are label maps.
        sources: Whether there are source pictures.
    """

    def __init__(self, count: int = 96, maps: bool = True, sources: bool = True) -> None:
        super().__init__()
        self.count, self.maps, self.source_channels = count, maps, 1 if sources else 0

    @property
    def name(self) -> str:
        return "tiny_pairs"

    @property
    def label_names(self) -> list[str]:
        return []

    @property
    def mask_names(self) -> list[str]:
        return PARTS if self.maps else []

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "maps": self.maps, "sources": self.source_channels, "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        y, x = np.mgrid[:resolution, :resolution] / resolution - 0.5
        for i in range(self.count):
            rng = np.random.default_rng(i)
            mask = np.zeros((1, resolution, resolution), np.uint8)
            across, down = rng.uniform(-0.2, 0.2, 2)
            for part, radius in ((1, 0.35), (2, 0.15)):
                mask[0, (x - across) ** 2 + (y - down) ** 2 < radius**2] = part
            colours = np.array([[250, 250, 250], rng.integers(0, 256, 3), [250, 20, 20]], np.uint8)
            image = np.ascontiguousarray(colours[mask[0]].transpose(2, 0, 1))
            source = image.mean(0, keepdims=True).astype(np.uint8) if self.source_channels else None
            digest = hashlib.sha256(image.tobytes()).digest()[:16]
            labels = np.zeros(0, np.float32)
            yield Picture(f"{i}", image, labels, digest, source=source, mask=mask if self.maps else None)


class TinyDomains(FaceDataset):
    """Discs: light on dark in one domain, dark on light in the other.

    Args:
        count: Pictures.
        names: Domains.
    """

    def __init__(self, count: int = 96, names: Sequence[str] = ("night", "day")) -> None:
        super().__init__()
        self.count, self.names = count, list(names)

    @property
    def name(self) -> str:
        return "tiny_domains"

    @property
    def label_names(self) -> list[str]:
        return []

    @property
    def domain_names(self) -> list[str]:
        return self.names

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "names": self.names, "version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        y, x = np.mgrid[:resolution, :resolution] / resolution - 0.5
        for i in range(self.count):
            rng = np.random.default_rng(i)
            across, down = rng.uniform(-0.2, 0.2, 2)
            inside = (x - across) ** 2 + (y - down) ** 2 < 0.3**2
            number = i % len(self.names)
            image = rng.integers(200, 256, (3, resolution, resolution), dtype=np.uint8)
            image[:, inside if number else ~inside] //= 8
            digest = hashlib.sha256(image.tobytes()).digest()[:16]
            yield Picture(f"{i}", image, np.zeros(0, np.float32), digest, domain=number)


class TinyTranslator(Translator):
    """Two convolutions and what the labels add.

    Args:
        channels: Colours.
        source_channels: Planes of the source; 0 for the images' colours.
        label_dim: Length of the labels.
        normalized: Whether to use batch normalisation.
    """

    def __init__(
        self, channels: int = 3, source_channels: int = 0, label_dim: int = 0, normalized: bool = False
    ) -> None:
        super().__init__(label_dim, 2)
        self.source_channels = source_channels or channels
        self.first = nn.Conv2d(self.source_channels, 6, 3, padding=1)
        self.norm = BatchNorm2d(6) if normalized else nn.Identity()
        self.told = nn.Linear(label_dim, 6) if label_dim else None
        self.last = nn.Conv2d(6, channels, 3, padding=1)

    @property
    def feature_channels(self) -> list[int]:
        return [self.source_channels, 6]

    @property
    def stages(self) -> list[nn.Module]:
        return [self.first]

    def forward(self, source: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.norm(self.first(source))
        if self.told is not None:
            x = x + self.told(labels)[:, :, None, None]
        return self.last(x.relu()).tanh()


class TinyJudge(Discriminator):
    """Two convolutions to a grid of logits; names labels where it is given any.

    Args:
        channels: Colours.
        source_channels: Planes of the source.
        label_dim: Length of the labels.
        normalized: Whether to use batch normalisation.
    """

    def __init__(
        self, channels: int = 3, source_channels: int = 0, label_dim: int = 0, normalized: bool = False
    ) -> None:
        super().__init__(label_dim)
        self.first = nn.Conv2d(channels + source_channels, 6, 4, 2, 1, bias=not normalized)
        self.norm = BatchNorm2d(6) if normalized else nn.Identity()
        self.last = nn.Conv2d(6, 1, 3, padding=1)
        self.classes = nn.Linear(6, label_dim) if label_dim else None

    @property
    def heads(self) -> dict[str, int]:
        return {"class": self.label_dim} if self.label_dim else {}

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Verdict:
        h = nn.functional.softplus(self.norm(self.first(x)))
        heads = {"class": self.classes(h.mean((2, 3)))} if self.classes is not None else {}
        return Verdict([self.last(h)], [h], heads)


def optimizers() -> dict[str, Any]:
    return {
        f"{player}_optimizer": lambda p: torch.optim.Adam(p, 2e-3, (0.5, 0.99))
        for player in ("generator", "discriminator")
    } | {"average_half_life": 100}


def paired_game(planes: int = 4, normalized: bool = False, **more: Any) -> PairedTranslation:
    """pix2pix in small: a source, three classes."""
    torch.manual_seed(0)
    parts = {
        "generator": TinyTranslator(source_channels=planes, normalized=normalized),
        "discriminator": TinyJudge(source_channels=planes, normalized=normalized),
        "objective": NonSaturating(),
        "generator_terms": {"l1": L1(10.0), "features": FeatureMatching()},
    }
    return PairedTranslation(**optimizers() | parts | more)


def styled() -> Pix2PixHDTranslator:
    """Make pix2pixHD's generator in small, with an encoder, for ``paired_game``."""
    torch.manual_seed(0)
    encoder = FeatureEncoder(3, PARTS, width=2, halvings=1)
    return Pix2PixHDTranslator(8, 3, 4, width=4, halvings=1, blocks=1, local_blocks=1, encoder=encoder)


def coarse_to_fine() -> PairedTranslation:
    """pix2pixHD in small: three levels, two scales, boundaries of maps."""
    torch.manual_seed(0)
    level = Steps({0: 0.0, 40: 1.0, 80: 2.0})
    return paired_game(
        generator=Pix2PixHDTranslator(
            8, 3, 5, width=4, halvings=1, blocks=1, local_blocks=1, normalization=BatchNorm2d
        ),
        discriminator=MultiScaleDiscriminator(8, width=4, layers=0, source_channels=5, scales=2, grows=True),
        boundaries=True,
        scheduled={"generator.level": level, "discriminator.level": level},
    )


def modulated() -> PairedTranslation:
    """SPADE in small."""
    torch.manual_seed(0)
    return paired_game(generator=SPADETranslator(8, 3, 4, width=4, hidden=4, lowest=2, normalization=BatchNorm2d))


def cycle_game(
    pool: HistoryPool | int | None = 3, names: Sequence[str] = ("night", "day"), **more: Any
) -> DomainTranslation:
    """CycleGAN in small."""
    torch.manual_seed(0)
    parts = {
        "generator": PerDomainTranslator(TinyTranslator, names),
        "discriminator": PerDomainDiscriminator(TinyJudge, names),
        "objective": LeastSquares(),
        "generator_terms": {"cycle": Cycle(10.0), "identity": Identity(5.0)},
        "pool": HistoryPool(pool, 8, 3, names) if isinstance(pool, int) else pool,
    }
    return DomainTranslation(**optimizers() | parts | more)


def cut_game(identity: float = 1.0, **more: Any) -> OneWayTranslation:
    """CUT in small."""
    torch.manual_seed(0)
    parts = {
        "generator": TinyTranslator(),
        "discriminator": TinyJudge(),
        "objective": LeastSquares(),
        "generator_terms": {"nce": PatchNCE(layers=(0, 1), patches=16, width=8, identity=identity)},
    }
    return OneWayTranslation(**optimizers() | parts | more)


def star_game(**more: Any) -> AttributeTranslation:
    """StarGAN in small."""
    torch.manual_seed(0)
    parts = {
        "generator": TinyTranslator(label_dim=3),
        "discriminator": TinyJudge(label_dim=3),
        "objective": Wasserstein(),
        "generator_terms": {"cycle": Cycle(10.0), "class": Classification()},
        "discriminator_terms": {"class": Classification(made=0.0), "gp": GradientPenalty(10.0)},
        "critics": 2,
        "conditional": True,
    }
    return AttributeTranslation(**optimizers() | parts | more)


GAMES: dict[str, Callable[..., Translation]] = {
    "paired": paired_game, "cycle": cycle_game, "cut": cut_game, "star": star_game
}  # fmt: skip
DATASETS = {"paired": TinyPairs, "cycle": TinyDomains, "cut": TinyDomains, "star": TinyFaces}


def data_for(name: str, ready: bool = False) -> FaceData:
    """Make the data of a game, and prepare them where asked."""
    data = FaceData(DATASETS[name](), resolution=8, batch_size=8, num_workers=0)
    if ready:
        data.prepare_data()
        data.setup("fit")
    return data


def picture(n: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def batch_of(n: int = 4) -> dict[str, Tensor]:
    """A batch that has all that any family may ask for."""
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0]]).repeat(n // 4, 1)
    mask = picture(n, 1, 2) % 3
    return {
        "image": picture(n), "source": picture(n, 1, 1), "mask": mask, "labels": labels, "index": torch.arange(n),
        "domain": torch.arange(n) % 2, "other": picture(n, 3, 3), "other_labels": labels.flip(0),
    }  # fmt: skip


def informed(module: Translation) -> Translation:
    """Tell a module what its data would."""
    module.label_names, module.mask_names, module.source_channels = ["colour=red", "colour=blue", "large"], PARTS, 1
    module.domain_names, module.label_rows = ["night", "day"], torch.eye(3)
    return module


def count_calls(network: nn.Module) -> list[int]:
    """Count a network's runs from now on, in training alone."""
    calls = [0]

    def called(network: nn.Module, *_: object) -> None:
        calls[0] += network.training

    network.register_forward_hook(called)
    return calls


def turn(module: Translation, player: Player, n: int = 4, **more: Any) -> Step:
    batch = batch_of(n)
    batch["image"] = to_float(batch["image"])
    return module.step_class(informed(module), batch, Draws(0, 0, n, 0, n, torch.device("cpu")), player, **more)
