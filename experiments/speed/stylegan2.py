"""How fast StyleGAN2 trains here and by the PyPI package stylegan2-pytorch, and in how much memory.

python -m experiments.speed.stylegan2 --other <folder>, made by `pip install --target <folder> stylegan2-pytorch`

Timed are whole turns of both players, 16 of them in each segment: one round of the regularisers. Ours go through `fit`
without logs; theirs are the package's own `Trainer.train`. Both are handed the same bytes again and again, work in the
same torch and have equal channels where images have 4 x 4 pixels or more, 512-dimensional latents and styles, eight
layers of mapping, mixed styles, Adam, and averaged weights: ours after each turn, theirs after every tenth.

`ours` does what theirs does: gradient penalties on real and made images every 16 turns, path lengths of all images
every 4, and translation and cutout of all that the discriminator sees. `our recipe` is StyleGAN2-ADA's: a penalty on
real images alone, path lengths of half of them, adaptive augmentation, here from p = 0.5 on.

The package's intervals, 4 and 32, are changed by a step number that answers `steps % 4` as if it were `steps % 16`.
Its one `network_capacity` gives its discriminator twice its generator's channels: here it is half as much there. It
runs on a GPU alone: on a CPU, `cuda()` is made to leave tensors where they are. Its mixed precision needs apex: here
its whole step is under autocast. What stays different in its networks: grouped convolutions with a kernel for each
image, bilinear upsampling before convolutions, which then multiply four times as often as our transposed ones, two
more convolutions at 4 x 4 in the generator; in the discriminator blocks of three convolutions, where ours have two,
six at 4 x 4 and 2 x 2, where ours has one and a linear layer, no minibatch deviation, unfiltered skips; no equalised
learning rate in convolutions. And in its turns: each player's draws images of its own, where ours share them unless a
penalty is due on made images; the generator's computes gradients of the discriminator's weights too. Together these
are 1.7 to 1.8 times as many multiplications, at 64 x 64 and 128 x 128, turns with penalties aside.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.augment.adaptive import AdaptiveAugment
from lightning_avatars.augment.differentiable import DiffAugment
from lightning_avatars.cli import TRAINER
from lightning_avatars.data.batches import Batch
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import to_float
from lightning_avatars.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from lightning_avatars.objectives.adversarial import NonSaturating
from lightning_avatars.terms.augmentation import AdaptiveStrength
from lightning_avatars.terms.gradients import R1, R2
from lightning_avatars.terms.paths import PathLength

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "stylegan2.json", HERE / "README.md"

PENALTY, PATHS = 16, 4  # turns between their evaluations
THEIRS = "stylegan2-pytorch"


@dataclass(frozen=True)
class Case:
    """What a segment trains.

    Args:
        resolution: Height and width of the images.
        width: Channels at the full resolution, a multiple of 4; with each halving they double, up to 512.
        batch_size: Images of a batch.
        device: ``cpu`` or ``cuda``.
        precision: ``32-true`` or ``bf16-mixed``.
        compile: Whether our networks are compiled; the package knows no such thing.
        threads: Of a CPU.
        warm: Turns before the clock starts, with a path length among them, a multiple of 4.
        turns: Turns that are timed, a multiple of 16.
    """

    resolution: int
    width: int
    batch_size: int
    device: str = "cpu"
    precision: str = "32-true"
    compile: bool = False
    threads: int = 2
    warm: int = PATHS
    turns: int = PENALTY


CPU = (Case(64, 32, 8), Case(128, 16, 8))
GPU = tuple(
    Case(resolution, width, batch_size, "cuda", precision, compiled, threads=8, warm=36, turns=10 * PENALTY)
    for resolution, width, batch_size in ((64, 128, 64), (128, 64, 64))
    for precision, compiled in (("32-true", False), ("bf16-mixed", False), ("bf16-mixed", True))
)


def stylegan2(other: Path, rounds: int = 3, device: str = "auto", write: bool = True) -> None:
    """Measure each case; write ``stylegan2.json`` and the page's table.

    Args:
        other: Folder that stylegan2-pytorch is installed in.
        rounds: Segments of each kind.
        device: ``cpu``, ``cuda`` or ``auto``.
        write: Whether to write what was found; else it is only shown.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting is no work, and others may need the core
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    found: dict[str, Any] = {"hardware": hardware(torch.device(chosen)), "torch": torch.__version__, "rounds": rounds}
    found["cases"] = [compared(case, other, rounds) for case in (GPU if chosen == "cuda" else CPU)]
    if write:
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[chosen] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        fill(PAGE, "stylegan2", "\n".join(line for one in known.values() for line in table(one)))


def compared(case: Case, other: Path, rounds: int) -> dict[str, Any]:
    """Let the three ways take turns, each in a process of its own; all are compared with theirs of the same round."""
    ways = {THEIRS: partial(theirs, folder=other), "ours": partial(ours, alike=True), "our recipe": ours}
    segments = [{name: alone(work, case) for name, work in ways.items()} for _ in range(rounds)]
    row: dict[str, Any] = {"case": asdict(case), "ways": {}}
    for name in ways:
        row["ways"][name] = {
            "seconds": round(median(one[name]["seconds"] for one in segments), 4),
            "processor_seconds": round(median(one[name]["processor_seconds"] for one in segments), 4),
            "faster": round(median(one[THEIRS]["seconds"] / one[name]["seconds"] for one in segments), 2),
            "less_work": round(
                median(one[THEIRS]["processor_seconds"] / one[name]["processor_seconds"] for one in segments), 2
            ),
            "bytes": int(median(one[name]["bytes"] for one in segments)),
            "networks": segments[0][name]["networks"],
        }
    print(json.dumps(row), flush=True)
    return row


def alone(work: Callable[[Case], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Run one segment in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(segment, work, case).result()


def segment(work: Callable[[Case], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Be the process of a segment."""
    torch.set_num_threads(case.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    return work(case)


class Clock(Callback):
    """Times the turns of a segment after the first ones, and sees how much memory all of them took.

    Args:
        case: What is trained.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.seen = case, 0
        self.before = self.peak()

    def on_train_batch_start(self, *_: object) -> None:
        if self.seen == self.case.warm:
            self.started, self.worked = self.now()
        self.seen += 1

    def on_train_end(self, *_: object) -> None:
        self.stopped, self.done = self.now()

    def now(self) -> tuple[float, float]:
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        return perf_counter(), process_time()

    def peak(self) -> int:
        """The most bytes that torch had allocated on a GPU, or that the process held."""
        if self.case.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def measured(self, networks: dict[str, Any]) -> dict[str, Any]:
        """Seconds of a turn, those of all cores together, and memory beyond what imports took."""
        return {
            "seconds": (self.stopped - self.started) / self.case.turns,
            "processor_seconds": (self.done - self.worked) / self.case.turns,
            "bytes": self.peak() - self.before,
            "networks": networks,
        }


def pictures(case: Case) -> Tensor:
    """Make a batch of random bytes on the CPU."""
    return torch.randint(256, (case.batch_size, 3, case.resolution, case.resolution), dtype=torch.uint8)


def count(*parts: nn.Module) -> int:
    """Add up the parameters of networks."""
    return sum(p.numel() for part in parts for p in part.parameters())


# --- ours


def ours(case: Case, alike: bool = False) -> dict[str, Any]:
    """Train by ``fit``; ``alike`` is with what the package regularises and augments."""
    clock = Clock(case)
    module = game(case, alike)
    trainer = Trainer(
        **{**TRAINER, "max_epochs": 1}, accelerator="gpu" if case.device == "cuda" else "cpu", devices=1,
        precision=case.precision, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[clock],
    )  # fmt: skip
    batches = [Batch(image=pictures(case))] * (case.warm + case.turns)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    generator, discriminator = module.generator, module.discriminator
    return clock.measured(
        {
            "generator": count(generator),
            "discriminator": count(discriminator),
            "channels": [len(stage.layers[-1].bias) for stage in generator.stages],
            "judging": [len(stage.first.bias) for stage in discriminator.stages] + [len(discriminator.head.conv.bias)],
        }
    )


def game(case: Case, alike: bool) -> LightningModule:
    """Build ours, in its last turns before a penalty is due."""
    penalties = {"r1": R1(1.0, PENALTY)} | ({"r2": R2(1.0, PENALTY)} if alike else {"strength": AdaptiveStrength()})
    adam = partial(Adam, lr=2e-3, betas=(0.0, 0.99))
    module = Adversarial(
        StyleGAN2Generator(case.resolution, width=case.width),
        StyleGAN2Discriminator(case.resolution, width=case.width),
        NonSaturating(),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        discriminator_terms=penalties,
        generator_terms={"path_length": PathLength(2.0, PATHS, shrink=1 if alike else 2)},
        augment=DiffAugment(colour=0.0) if alike else AdaptiveAugment(p=0.5),
        compile=case.compile,
    )
    module.turns = dict.fromkeys(module.turns, -case.warm % PENALTY)
    return module


# --- theirs


class Turn(int):
    """A step number that says when the package's regularisers are due."""

    def __mod__(self, every: int) -> int:
        return int(self) % {4: PENALTY, 32: PATHS}.get(every, every)


def theirs(case: Case, folder: Path) -> dict[str, Any]:
    """Train by the package's own ``Trainer.train``."""
    package = imported(folder, case.device)
    clock = Clock(case)
    with tempfile.TemporaryDirectory() as base:
        trainer = package.Trainer(
            base_dir=base, image_size=case.resolution, network_capacity=case.width // 2, batch_size=case.batch_size,
            aug_prob=1.0, save_every=10**9, evaluate_every=10**9,
        )  # fmt: skip
        trainer.loader = floats(case)
        wide = case.precision == "bf16-mixed"
        first = 160_000 - case.warm  # past the 20,000 after which it takes path lengths and averages
        for number in range(case.warm + case.turns):
            clock.on_train_batch_start()
            trainer.steps = Turn(first + number)
            with torch.autocast(case.device, torch.bfloat16) if wide else nullcontext():
                trainer.train()
        clock.on_train_end()
    gan = trainer.GAN
    return clock.measured(
        {
            "generator": count(gan.S, gan.G),
            "discriminator": count(gan.D),
            "channels": [block.conv2.filters for block in gan.G.blocks],
            "judging": [block.net[0].out_channels for block in gan.D.blocks],
        }
    )


def imported(folder: Path, device: str) -> ModuleType:
    """Import the package, without the tracker that it does not use; numpy, which it does, can't hold bfloat16."""
    sys.path.append(os.fspath(folder))  # behind this environment's own
    sys.modules["aim"] = ModuleType("aim")
    with patch("torch.cuda.is_available", lambda: True):  # which it asserts
        package = import_module("stylegan2_pytorch.stylegan2_pytorch")
    discriminator = package.Discriminator
    package.Discriminator = lambda size, capacity, **options: discriminator(size, capacity // 2, **options)
    lengths = package.calc_pl_lengths
    package.calc_pl_lengths = lambda styles, images: lengths(styles, images).float()
    if device == "cpu":
        torch.Tensor.cuda = nn.Module.cuda = lambda self, *_: self
    return package


def floats(case: Case) -> Iterator[Tensor]:
    """Hand out the batch as the package wants it: a new tensor each time, for it marks them as differentiated."""
    for batch in repeat(pictures(case)):
        yield to_float(batch).add_(1).div_(2)


# --- the page


def table(found: dict[str, Any]) -> list[str]:
    """Write what was found on one kind of device."""
    lines = [
        f"### StyleGAN2 on {found['hardware']}, torch {found['torch']}, medians of {found['rounds']} segments",
        "",
        "| size, batch | channels | precision | | parameters, G, D | s a turn | all cores | faster | less work | MiB |",
        "|---" * 10 + "|",
    ]
    for row in found["cases"]:
        case = row["case"]
        how = case["precision"] + (", ours compiled" if case["compile"] else "")
        for name, way in row["ways"].items():
            made = way["networks"]
            lines.append(
                f"| {case['resolution']}², {case['batch_size']} | {max(made['channels'])} to {min(made['channels'])} "
                f"| {how} | {name} | {made['generator'] / 1e6:.1f}, {made['discriminator'] / 1e6:.1f} M "
                f"| {way['seconds']:.3f} | {way['processor_seconds']:.3f} | **{way['faster']:.2f}** "
                f"| {way['less_work']:.2f} | {way['bytes'] / 2**20:,.0f} |"
            )
    return [*lines, ""]


if __name__ == "__main__":
    auto_cli(stylegan2, as_positional=False)
