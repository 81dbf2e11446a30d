"""How near `fit` of a CycleGAN comes to a plain loop, at the paper's size for 128 x 128 pixels.

python -m experiments.speed.cyclegan

Both train the same networks: two generators of 9 residual blocks and two discriminators of 70 x 70 patches, 64 channels
wide, with least squares, cycle and identity losses, a pool of 50 images of each domain, and Adam. The loop is written
as one writes it by hand, domain after domain, with nothing beside training; `fit` has averaged weights, logs and the
guard, and is charged previews and checkpoints as in `training`. They take turns in one process, so that other work on
the machine hits both; memory is measured in processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from torch.optim import Adam

from experiments.machine import hardware, high_water
from experiments.pages import fill
from experiments.speed.training import Case, Clock, mebibytes, timed
from lightning_avatars.data.avatar_styles import AvatarStyles
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.domain_translation import DomainTranslation
from lightning_avatars.images import to_float
from lightning_avatars.networks.layers.normalization import InstanceNorm2d
from lightning_avatars.networks.patch import PatchDiscriminator
from lightning_avatars.networks.per_domain import PerDomainDiscriminator, PerDomainTranslator
from lightning_avatars.networks.residual_translator import ResidualTranslator
from lightning_avatars.objectives.adversarial import LeastSquares
from lightning_avatars.pool import HistoryPool
from lightning_avatars.terms.cycle import Cycle, Identity

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "cyclegan.json", HERE / "README.md"
SIDE, POOL, CYCLE, IDENTITY = 128, 50, 10.0, 5.0
STYLES = {"avataaars": 40, "micah": 40}
ADAM = partial(Adam, lr=2e-4, betas=(0.5, 0.999))


def cyclegan(rounds: int = 3, batch_sizes: list[int] = [1, 4], batches: int = 6, threads: int = 2) -> None:  # noqa: B006
    """Measure on the CPU; write ``cyclegan.json`` and the page's table.

    Args:
        rounds: Runs of each kind.
        batch_sizes: Images of each domain in a batch.
        batches: Timed batches of a run.
        threads: Threads of the CPU.
    """
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"hardware": hardware("cpu"), "torch": torch.__version__, "rounds": rounds}
    cases = [Case("cyclegan", SIDE, 2 * size, batches, threads=threads) for size in batch_sizes]
    found["cases"] = [compared(case, rounds) for case in cases]
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    fill(PAGE, "cyclegan", "\n".join(table(found)))


def compared(case: Case, rounds: int) -> dict[str, Any]:
    """Let both take turns in each run; measure their memory apart."""
    runs = [alone(interleaved, case) for _ in range(rounds)]
    row = {
        "case": asdict(case),
        "loop_images_per_second": round(median(run["loop"] for run in runs), 3),
        "fit_images_per_second": round(median(run["fit"] for run in runs), 3),
        "ratios": [round(run["fit"] / run["loop"], 3) for run in runs],
        "loop_peak_bytes": alone(plain, case)["peak"],
        "fit_peak_bytes": alone(fitted, case)["peak"],
    }
    print(json.dumps(row), flush=True)
    return row


def alone(work: Callable[[FaceData, Case], dict[str, float]], case: Case) -> dict[str, Any]:
    """Run one segment in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(segment, work, case).result()


def segment(work: Callable[[FaceData, Case], dict[str, float]], case: Case) -> dict[str, Any]:
    """Be the process of a segment."""
    torch.set_num_threads(case.threads)
    data = FaceData(AvatarStyles(STYLES), SIDE, case.batch_size)
    data.prepare_data()
    data.setup("fit")
    return work(data, case) | {"peak": high_water()}


def made() -> DomainTranslation:
    """Make the model, the same each time."""
    torch.manual_seed(0)
    names = list(STYLES)
    return DomainTranslation(
        PerDomainTranslator(partial(ResidualTranslator, SIDE), names),
        PerDomainDiscriminator(partial(PatchDiscriminator, SIDE, normalization=InstanceNorm2d), names),
        LeastSquares(),
        HistoryPool(POOL, SIDE, domain_names=names),
        adversarial_weight=2.0,
        generator_terms={"cycle": Cycle(CYCLE), "identity": Identity(IDENTITY)},
        generator_optimizer=ADAM,
        discriminator_optimizer=ADAM,
    )


def interleaved(data: FaceData, case: Case) -> dict[str, float]:
    """Train by ``fit`` and in a loop, a batch each at a time."""
    return fitted(data, case, looped(made(), data))


def fitted(data: FaceData, case: Case, loop: Iterator[None] | None = None) -> dict[str, float]:
    """Train by ``fit``."""
    return timed(made(), data, case, Clock(1, loop, case.device, between=1))


def plain(data: FaceData, case: Case) -> dict[str, float]:
    """Train in a loop alone, for its memory."""
    loop = looped(made(), data)
    for _ in range(1 + case.batches):
        next(loop)
    return {}


def looped(module: DomainTranslation, data: FaceData) -> Iterator[None]:
    """Train the module's networks as one does by hand, a batch with each step."""
    for player in (module.generator, module.discriminator):
        player.to(memory_format=torch.channels_last)
    to_a, to_b = (network.train() for network in module.generator.each)
    judge_a, judge_b = (network.train() for network in module.discriminator.each)
    generators = ADAM(list(chain(to_a.parameters(), to_b.parameters())))
    discriminators = ADAM(list(chain(judge_a.parameters(), judge_b.parameters())))
    pool_a, pool_b = Pool(), Pool()
    for batch in data.train_dataloader():
        images = to_float(batch["image"])
        a, b = (images[start::2].contiguous(memory_format=torch.channels_last) for start in (0, 1))
        module.discriminator.requires_grad_(False)
        generators.zero_grad()
        fake_a, fake_b = to_a(b), to_b(a)
        loss = game(judge_a, fake_a, 1.0) + game(judge_b, fake_b, 1.0)
        loss = loss + CYCLE * (l1_loss(to_a(fake_b), a) + l1_loss(to_b(fake_a), b))
        loss = loss + IDENTITY * (l1_loss(to_a(a), a) + l1_loss(to_b(b), b))
        loss.backward()
        generators.step()
        module.discriminator.requires_grad_(True)
        discriminators.zero_grad()
        for judge, real, fake, pool in ((judge_a, a, fake_a, pool_a), (judge_b, b, fake_b, pool_b)):
            (0.5 * (game(judge, real, 1.0) + game(judge, pool.mix(fake.detach()), 0.0))).backward()
        discriminators.step()
        yield


def game(judge: nn.Module, images: Tensor, aim: float) -> Tensor:
    """Squared difference of all logits from what a player wants them to be."""
    (logits,) = judge(images).logits
    return mse_loss(logits, torch.full_like(logits, aim))


class Pool:
    """Fakes of the past, which half of the time are judged in the place of new ones."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def mix(self, made: Tensor) -> Tensor:
        shown = []
        for image in made:
            if len(self.images) < POOL:
                self.images.append(image)
                shown.append(image)
            elif random.random() < 0.5:
                place = random.randrange(POOL)
                shown.append(self.images[place])
                self.images[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


def table(found: dict[str, Any]) -> list[str]:
    """Write what was found."""
    lines = [
        f"### CycleGAN on {found['hardware']}, torch {found['torch']}, medians of {found['rounds']} runs",
        "",
        "| size, batch | loop | `fit` | ratio | each run | memory, loop | `fit` |",
        "|---" * 7 + "|",
    ]
    for row in found["cases"]:
        size = row["case"]["batch_size"]
        lines.append(
            f"| {SIDE}², {size // 2} of each domain | {row['loop_images_per_second']:.2f}/s "
            f"| {row['fit_images_per_second']:.2f}/s | **{median(row['ratios']):.2f}** "
            f"| {', '.join(f'{ratio:.2f}' for ratio in row['ratios'])} | {mebibytes(row['loop_peak_bytes'])} "
            f"| {mebibytes(row['fit_peak_bytes'])} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    auto_cli(cyclegan, as_positional=False)
