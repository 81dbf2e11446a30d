"""Two processes train as one does, buffers included."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.objectives.adversarial import NonSaturating, Wasserstein
from lightning_avatars.strategies import PhaseDDP
from lightning_avatars.terms.clipping import WeightClip
from lightning_avatars.terms.paths import PathLength
from tests.conf.adversarial_autoencoders import vaegan_game, vqgan_game
from tests.conf.processes import join, start_two
from tests.conf.tiny import TinyDiscriminator, TinyFaces
from tests.conf.training import fit, game, weights
from tests.conf.translation import GAMES as TRANSLATIONS
from tests.conf.translation import coarse_to_fine, data_for, modulated, paired_game, styled
from tests.families.test_adversarial import PENALTIES
from tests.networks.layers.test_spectral import normalised
from tests.networks.test_progressive import grown
from tests.networks.test_stylegan3 import tiny as stylegan3
from tests.terms.test_augmentation import augmented
from tests.terms.test_paths import Linear


def path_length() -> Adversarial:
    """A game whose generator has a mapping."""
    torch.manual_seed(1)
    return game(generator=Linear(), generator_terms={"path": PathLength(every=2)})


GAMES = {name: partial(lambda make, **more: game(**make(), **more), make) for name, make in PENALTIES.items()} | {
    "batch_norm": partial(game, normalized=True, objective=NonSaturating()),
    "chunks": partial(lambda make, **more: game(**make(), micro_batch=3, **more), PENALTIES["r1_r2"]),
    "weight_clip": lambda: game(
        objective=Wasserstein(), critics=2, clip_gradients=0.1, discriminator_terms={"clip": WeightClip(0.05)}
    ),
    "augmented": augmented,
    "spectral": normalised,
    "path_length": path_length,
    "stylegan3": lambda: game(generator=stylegan3(16), discriminator=TinyDiscriminator(16)),
    "growing": grown,
    "vqgan": vqgan_game,
    "vaegan": vaegan_game,
    "styled": lambda: paired_game(generator=styled()),
    "coarse_to_fine": coarse_to_fine,
    "modulated": modulated,
    **TRANSLATIONS,
}
PICTURES = {name: name for name in TRANSLATIONS} | dict.fromkeys(("styled", "coarse_to_fine", "modulated"), "paired")
SIZES = {"stylegan3": 16}  # its smallest
# numbers near zero, where two halves of a batch are summed otherwise than the whole; how far depends on the processor
ROUNDED = {"growing": 1e-5, "vaegan": 1e-5, "vqgan": 1e-5, "styled": 1e-5, "modulated": 1e-4}
IMAGES = defaultdict(lambda: 160, styled=80)  # 20 batches; ten where instance norm of few pixels makes them part


def pictures(name: str) -> FaceData:
    """Make the pictures that a game is trained on."""
    return data_for(PICTURES[name]) if name in PICTURES else FaceData(TinyFaces(), SIZES.get(name, 8), batch_size=8)


def work(rank: int, port: int, folder: Path) -> None:
    """Train every game as one of two processes and keep the weights."""
    join(rank, port)
    for name, make in GAMES.items():
        module = make()
        fit(module, folder / f"{name}_{rank}", IMAGES[name], devices=2, strategy=PhaseDDP(), data=pictures(name))
        torch.save(weights(module), folder / f"{name}_{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    start_two(work, folder)
    return folder


@pytest.mark.parametrize("name", GAMES)
def test_two_processes_equal_one(folder, tmp_path, name):
    alone = GAMES[name]()
    start = weights(alone).clone()
    fit(alone, tmp_path, IMAGES[name], data=pictures(name))
    ranks = [torch.load(folder / f"{name}_{rank}.pt") for rank in range(2)]
    assert torch.equal(*ranks), "every weight and buffer must be equal on all processes"
    assert (weights(alone) - start).abs().max() > 1e-3
    torch.testing.assert_close(ranks[0], weights(alone), rtol=1e-5, atol=ROUNDED.get(name, 1e-6))
