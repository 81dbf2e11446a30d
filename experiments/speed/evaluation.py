"""Time what an evaluation is made of, all in one run, and write the ratios.

python -m experiments.speed.evaluation <weights of Inception>

What is compared is timed in turns, so that other work on the machine hits both, and figures are medians over rounds.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from experiments.machine import hardware, high_water
from experiments.pages import fill
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.evaluation.distribution import Distribution, Estimate
from lightning_avatars.evaluation.passport import versions
from lightning_avatars.evaluation.real import BLOCK, Against
from lightning_avatars.evaluation.samples import Drawn, real_pictures, score_samples
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.metrics.extractors.base import Description, Extractor, full_float32
from lightning_avatars.metrics.extractors.inception import Inception
from lightning_avatars.metrics.extractors.recognizer import Recognizer
from lightning_avatars.metrics.frechet import Moments, frechet_to, square_root
from lightning_avatars.metrics.neighbours import inner
from lightning_avatars.metrics.processes import shares
from lightning_avatars.metrics.weights import read
from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_avatars.objectives.adversarial import NonSaturating

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "README.md"
RANK = 256  # of the made-up features, about


def evaluation(
    inception: Path,
    device: str = "auto",
    batches: list[int] = [32, 64],  # noqa: B006 - never changed
    compiled: bool = False,
    rounds: int = 5,
    count: int = 10_000,
    avatars: int = 5_000,
    avatar_references: int = 14_000,
    write: bool = True,
) -> None:
    """Time extraction, scoring and a validation's evaluation; write ``results.json`` and the page's tables.

    Args:
        inception: Weights of the Inception network.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.
        batches: Images that Inception sees at a time.
        compiled: Whether to time it compiled, too.
        rounds: Measurements of each, of which the median is taken.
        count: Images on either side, in Inception's features.
        avatars: Images in AvatarNet's features, and samples that a validation draws.
        avatar_references: Real pictures in AvatarNet's features.
        write: Whether to write what was found; else it is only shown.
    """
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    clock = Clock(chosen, rounds)
    extraction = [time_extraction(inception, clock, batch, compiled) for batch in batches]
    rate = max(row["images_per_second"]["ours"] for row in extraction)
    recognizer = Recognizer("avatarnet").to(chosen)
    images = torch.randint(0, 256, (1000, 3, 64, 64), dtype=torch.uint8)
    recognized = len(images) / clock({"avatarnet": lambda: recognizer(images)})["avatarnet"]
    found = {
        "hardware": hardware(chosen),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "versions": versions(),
        "extraction": extraction,
        "scoring": [
            time_scoring(Inception(inception).to(chosen), clock, count, count, rate),
            time_scoring(recognizer, clock, avatars, avatar_references, recognized),
        ],
        "validation": time_validation(recognizer, clock, avatars),
    }
    print(json.dumps(found, indent=1))
    if write:
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[chosen.type] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        text = "\n".join(line for one in known.values() for line in tables(one))
        fill(PAGE, "evaluation", text)


class Clock:
    """Times actions in turns, once each before it counts.

    Args:
        device: Waited for before a clock is read.
        rounds: Measurements of each action.
    """

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def __call__(self, actions: dict[str, Callable[[], object]], warm: bool = True) -> dict[str, float]:
        """Return the median seconds of each action."""
        if warm:
            for action in actions.values():
                action()
        turns = [{name: self.seconds(action) for name, action in actions.items()} for _ in range(self.rounds)]
        return {name: median(turn[name] for turn in turns) for name in actions}

    def seconds(self, action: Callable[[], object]) -> float:
        self.wait()
        started = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def time_extraction(weights: Path, clock: Clock, batch: int, compiled: bool) -> dict[str, Any]:
    """Time Inception's features of images of 64 x 64, ours and torch-fidelity's, in images per second."""
    images = torch.randint(0, 256, (batch * (20 if clock.device.type == "cuda" else 1), 3, 64, 64), dtype=torch.uint8)
    ours, theirs = Inception(weights).to(clock.device), fidelity(weights).to(clock.device)
    ours.batch = batch

    @torch.no_grad()
    def describe() -> Tensor:
        return torch.cat([theirs(part.to(clock.device))[0] for part in images.split(batch)])

    def describe_in_float32() -> Tensor:
        with full_float32():
            return describe()

    actions: dict[str, Callable[[], object]] = {"ours": lambda: ours(images), "torch-fidelity": describe}
    if clock.device.type == "cuda":  # where torch rounds the inputs of convolutions to TF32 unless told otherwise
        actions["torch-fidelity in float32"] = describe_in_float32
    if compiled:
        faster = Inception(weights).to(clock.device)
        faster.batch = batch
        faster.network.compile()
        actions["ours, compiled"] = lambda: faster(images)
    rates = {name: len(images) / seconds for name, seconds in clock(actions).items()}
    expected = describe_in_float32()
    return {
        "batch": batch,
        "images": len(images),
        "images_per_second": rates,
        "ratio": {name: rate / rates["torch-fidelity"] for name, rate in rates.items()},
        "relative_difference": float((ours(images).features - expected).norm() / expected.norm()),
    }


def fidelity(weights: Path) -> nn.Module:
    """Build torch-fidelity's network with the same weights; features don't depend on its last layer."""
    tensors = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008), **read(weights)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(tensors, path)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))


class WithoutIntervals(Distribution):
    """A distribution whose Fréchet distance is taken once, not without each block too."""

    def frechet(self, real: Against) -> Estimate:
        value = frechet_to(real.root, real.mean, real.covariance, *self.moments.compute())
        return value, value[None]


def made_up(count: int, dim: int, seed: int) -> Iterator[Tensor]:
    """Yield blocks of features that are not negative, have a mean of some 0.4 and few strong directions."""
    draw = torch.Generator().manual_seed(0)
    strength = torch.arange(1, RANK + 1) ** -0.5
    directions = torch.randn(RANK, dim, generator=draw) * strength[:, None] / strength.norm()
    draw.manual_seed(seed)
    for where in shares(count, BLOCK):
        latent = torch.randn(where.stop - where.start, RANK, generator=draw)
        noise = torch.randn(len(latent), dim, generator=draw)
        yield (0.3 + 0.4 * latent @ directions + 0.05 * noise).relu()


def described(
    kind: type[Distribution], extractor: Extractor, blocks: list[Tensor], device: torch.device
) -> Distribution:
    """Sum up features, block by block, as they come from an extractor."""
    seen, start = kind(extractor, sum(map(len, blocks)), device), 0
    logits = torch.zeros(BLOCK, extractor.classes, device=device) if extractor.classes else None
    for block in blocks:
        index = torch.arange(start, start + len(block))
        seen.update(index, Description(block, None if logits is None else logits[: len(block)]))
        start += len(block)
    return seen


def reference(extractor: Extractor, blocks: list[Tensor], device: torch.device) -> Against:
    """Make features what others are compared with, as ``evaluation.real`` does."""
    moments = Moments(extractor.dim).to(device)
    for block in blocks:
        moments.update(block)
    (mean, covariance), features = moments.compute(), torch.cat(blocks)
    return Against(mean, covariance, square_root(covariance), features, inner(features, extractor.kernel, 1))


def time_scoring(extractor: Extractor, clock: Clock, count: int, references: int, rate: float) -> dict[str, Any]:
    """Time the scores of features, and compare that with the time that extracting them takes."""
    device = clock.device
    extractor = extractor.to(device)
    samples, reals = ([b.to(device) for b in made_up(n, extractor.dim, s)] for n, s in ((count, 1), (references, 2)))
    against = reference(extractor, reals, device)
    clock = Clock(device, min(clock.rounds, 3))
    seconds = clock(
        {
            "scores": lambda: described(WithoutIntervals, extractor, samples, device).estimates(against),
            "scores with intervals": lambda: described(Distribution, extractor, samples, device).estimates(against),
            "reference": lambda: reference(extractor, reals, device),
        },
        warm=False,
    )
    extraction = count / rate
    return {
        "extractor": extractor.name,
        "dim": extractor.dim,
        "images": count,
        "references": references,
        "images_per_second": rate,
        "extraction_seconds": extraction,
        "seconds": seconds,
        "ratio": 1 + seconds["scores"] / extraction,
        "ratio_with_intervals": 1 + seconds["scores with intervals"] / extraction,
        "ratio_with_reference": 1
        + (seconds["scores"] + seconds["reference"]) / (extraction * (1 + references / count)),
        "memory_bytes": memory(extractor, samples, reals, device),
    }


def memory(extractor: Extractor, samples: list[Tensor], reals: list[Tensor], device: torch.device) -> int:
    """Measure the most memory that the scores take at a time above the features: of the GPU, or of a new process."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        score_all(extractor, samples, reals, device)
        return torch.cuda.max_memory_allocated(device) - before
    sizes = sum(map(len, samples)), sum(map(len, reals))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return int(pool.apply(grown, (extractor, *sizes, torch.get_num_threads())))


def grown(extractor: Extractor, count: int, references: int, threads: int) -> int:
    """By how much a process's largest memory grows while it scores."""
    torch.set_num_threads(threads)
    samples, reals = (list(made_up(n, extractor.dim, s)) for n, s in ((count, 1), (references, 2)))
    torch.linalg.eigvalsh(samples[0][:, :BLOCK].T @ samples[0][:, :BLOCK])  # what libraries take once is no part of it
    before = high_water()
    score_all(extractor, samples, reals, torch.device("cpu"))
    return high_water() - before


def score_all(extractor: Extractor, samples: list[Tensor], reals: list[Tensor], device: torch.device) -> None:
    """Score samples against reals, both from their features."""
    against = reference(extractor, reals, device)
    described(Distribution, extractor, samples, device).estimates(against)


def time_validation(extractor: Extractor, clock: Clock, count: int) -> dict[str, Any]:
    """Time what a validation does with samples of a small generator on avatars32, the reals' part in the cache."""
    data = FaceData(Avatars(), 32)
    data.prepare_data()
    data.setup("validate")
    torch.manual_seed(0)
    generator, discriminator = DCGANGenerator(32), DCGANDiscriminator(32)
    module = Adversarial(generator, discriminator, NonSaturating()).to(clock.device).eval()
    real, drawn = real_pictures(data), Drawn(module, count)
    blocks = list(shares(count, BLOCK))
    images = [drawn.read(where) for where in blocks]
    seconds = clock(
        {
            "whole": lambda: score_samples(module, real, [extractor], count),
            "drawing": lambda: [drawn.read(where) for where in blocks],
            "describing": lambda: [extractor(block) for block in images],
        }
    )
    scoring = seconds["whole"] - seconds["drawing"] - seconds["describing"]
    return {
        "samples": count,
        "parameters": sum(p.numel() for p in generator.parameters()),
        **seconds,
        "scoring": scoring,
    }


def tables(found: dict[str, Any]) -> list[str]:
    """Write what was found on one device."""
    lines = [
        f"## {found['hardware']}, {found['threads']} threads, medians of {found['rounds']} rounds\n",
        "| Inception, 64 px images | batch | images/s | against torch-fidelity |",
        "|---|---|---|---|",
    ]
    for row in found["extraction"]:
        for name, rate in row["images_per_second"].items():
            lines.append(f"| {name} | {row['batch']} | {rate:.1f} | {row['ratio'][name]:.2f} |")
    lines += [
        "",
        "| features | images against | extraction | scores | with intervals | reference, once | ratio | with intervals "
        "| both sides | memory |",
        "|---" * 10 + "|",
    ]
    for row in found["scoring"]:
        seconds = " | ".join(f"{s:.1f} s" for s in (row["extraction_seconds"], *row["seconds"].values()))
        ratios = " | ".join(f"{row[k]:.3f}" for k in ("ratio", "ratio_with_intervals", "ratio_with_reference"))
        sizes, peak = f"{row['images']:,} against {row['references']:,}", f"{row['memory_bytes'] / 2**30:.2f} GiB"
        lines.append(f"| {row['extractor']}, {row['dim']} | {sizes} | {seconds} | {ratios} | {peak} |")
    whole = found["validation"]
    shares_of = ", ".join(f"{name} {whole[name] / whole['whole']:.0%}" for name in ("drawing", "describing", "scoring"))
    lines += [
        "",
        f"A validation's evaluation, {whole['samples']:,} avatars of 32 px from a DCGAN of {whole['parameters']:,} "
        f"parameters, reals in the cache: {whole['whole']:.1f} s, of which {shares_of}.",
        "",
    ]
    return lines


if __name__ == "__main__":
    auto_cli(evaluation)
