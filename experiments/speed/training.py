"""How near `fit`, with everything that it does beside training, comes to the fastest plain loop, and how it scales.

python -m experiments.speed.training

`fit` trains with all callbacks of the command line, and every few batches it waits while the loop trains as many of
its own, so that other work on the machine hits both. A segment is far shorter than a run: what a preview and a
checkpoint take is measured at its end, and every batch is charged its share of one of each in ``OCCASION`` images.
Memory, and one process against two, are measured in processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import omegaconf  # noqa: F401 - the command line has it too before training begins
import torch
import yaml
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from experiments.machine import hardware, high_water
from experiments.pages import fill
from lightning_avatars import shipped
from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.guard import Guard
from lightning_avatars.callbacks.likelihood import LikelihoodQuality
from lightning_avatars.callbacks.predictions import Predictions
from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.progress import ImageProgress
from lightning_avatars.callbacks.reconstruction import ReconstructionQuality
from lightning_avatars.callbacks.results import RecognitionQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import TRAINER
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import to_float
from lightning_avatars.loggers import default_loggers
from lightning_avatars.second_order import SecondOrder
from lightning_avatars.strategies import PhaseDDP
from lightning_avatars.terms.gradients import squared_gradient

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "training.json", HERE / "README.md"
BETWEEN = 20  # batches of either, before the other's turn comes
OCCASION = Preview().every  # images between previews, by default; checkpoints are half as frequent


@dataclass(frozen=True)
class Case:
    """What a segment trains.

    Args:
        model: A shipped model.
        resolution: Height and width of the images.
        batch_size: Images of a batch over all processes.
        batches: Batches that are timed; a tenth as many come before the clock starts.
        device: ``cpu`` or ``cuda``.
        precision: Of ``fit``; the loop uses autocast to bfloat16 where it is ``bf16-mixed``.
        compile: Whether both networks are compiled.
        processes: Processes that train together.
        threads: Threads of each.
        width: Channels of both networks at the full resolution, instead of the model's own.
    """

    model: str
    resolution: int
    batch_size: int
    batches: int = 400
    device: str = "cpu"
    precision: str = "32-true"
    compile: bool = False
    processes: int = 1
    threads: int = 2
    width: int | None = None


CPU = (Case("dcgan", 32, 64, batches=1000), Case("r3gan", 64, 32, batches=80, width=8))
GPU = (
    Case("dcgan", 64, 256, device="cuda", precision="bf16-mixed"),
    Case("r3gan", 64, 256, device="cuda", precision="bf16-mixed"),
    Case("r3gan", 256, 64, 200, device="cuda", precision="bf16-mixed"),
    Case("r3gan", 256, 64, 200, device="cuda", precision="bf16-mixed", compile=True),
)


def training(rounds: int = 5, device: str = "auto", batches: int | None = None, write: bool = True) -> None:
    """Measure the overhead of each case, and one process against two; write ``training.json`` and the page's tables.

    Args:
        rounds: Runs of each kind.
        device: ``cpu``, ``cuda`` or ``auto``.
        batches: Timed batches of a segment, instead of each case's own.
        write: Whether to write what was found; else it is only shown.
    """
    os.environ["WANDB_MODE"] = "disabled"
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    cases = [replace(case, batches=batches or case.batches) for case in (GPU if chosen == "cuda" else CPU)]
    found: dict[str, Any] = {"hardware": hardware(chosen), "torch": torch.__version__, "rounds": rounds}
    found["overhead"] = [overhead(case, rounds) for case in cases]
    if chosen == "cpu":
        one = replace(cases[0], threads=1, batches=cases[0].batches // 8)
        ways = {"1 process": one, "1 process, 2 threads": replace(one, threads=2)}
        ways["2 processes"] = replace(one, processes=2)
        found["scaling"] = scaling(ways, rounds)
    print(json.dumps(found, indent=1))
    if write:
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[chosen] = found
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        fill(PAGE, "training", "\n".join(line for one in known.values() for line in tables(one)))


def overhead(case: Case, rounds: int) -> dict[str, Any]:
    """Measure what a batch costs more by ``fit``, in milliseconds, and the memory of both."""
    runs = [together(interleaved, case) for _ in range(rounds)]
    short = replace(case, batches=20)
    row = {
        "case": asdict(case),
        "loop_images_per_second": round(median(run["loop"] for run in runs), 1),
        "fit_images_per_second": round(median(run["fit"] for run in runs), 1),
        "ratios": [round(run["fit"] / run["loop"], 4) for run in runs],
        "milliseconds": round(median(1e3 * case.batch_size * (1 / run["fit"] - 1 / run["loop"]) for run in runs), 2),
        "occasion_milliseconds": round(median(1e3 * run["occasion"] for run in runs), 1),
        "loop_peak_bytes": together(plain, short)["peak"],
        "fit_peak_bytes": together(fitted, short)["peak"],
    }
    print(json.dumps(row), flush=True)
    return row


def scaling(ways: dict[str, Case], rounds: int) -> dict[str, Any]:
    """Let numbers of processes take turns; each is compared with the first of its round."""
    turns = [{name: together(fitted, case) for name, case in ways.items()} for _ in range(rounds)]
    first = next(iter(ways))
    row: dict[str, Any] = {"case": asdict(ways[first]), "ways": {}}
    for name in ways:
        row["ways"][name] = {
            "images_per_second": round(median(turn[name]["fit"] for turn in turns), 1),
            "ratio": round(median(turn[name]["fit"] / turn[first]["fit"] for turn in turns), 3),
            "peak_bytes": int(median(turn[name]["peak"] for turn in turns)),
        }
    print(json.dumps(row), flush=True)
    return row


def together(work: Any, case: Case) -> dict[str, Any]:  # noqa: ANN401 - a function of this module
    """Run one segment in fresh processes and return what the first of them measured."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: SimpleQueue[dict[str, float]] = context.SimpleQueue()
    group = [context.Process(target=segment, args=(work, case, rank, port, answers)) for rank in range(case.processes)]
    for process in group:
        process.start()
    for process in group:
        process.join()
    if any(process.exitcode for process in group):
        raise RuntimeError(f"{work.__name__} of {case} ended with {[process.exitcode for process in group]}")
    return answers.get()


def segment(work: Any, case: Case, rank: int, port: int, answers: SimpleQueue[dict[str, float]]) -> None:  # noqa: ANN401
    """Be one process of a segment."""
    if case.processes > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(case.processes), "LOCAL_WORLD_SIZE": str(case.processes), "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": "speed",
        }  # fmt: skip
    torch.set_num_threads(case.threads)
    torch.backends.cudnn.benchmark = True
    data = FaceData(Avatars(2_000), case.resolution, case.batch_size)
    data.prepare_data()
    data.setup("fit")
    rates = work(data, case)
    if rank == 0:
        peak = torch.cuda.max_memory_allocated() if case.device == "cuda" else high_water()
        answers.put(rates | {"peak": peak})


def made(case: Case) -> Adversarial:
    """Build a shipped model at a resolution."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    described = yaml.safe_load(shipped.find(case.model, "model").read_text())
    described["init_args"]["compile"] = case.compile
    own = {"resolution": case.resolution} | ({"width": case.width} if case.width else {})
    for player in ("generator", "discriminator"):
        described["init_args"][player].setdefault("init_args", {}).update(own)
    torch.manual_seed(0)
    return parser.instantiate_classes(parser.parse_object({"model": described})).model


def plain(data: FaceData, case: Case) -> dict[str, float]:
    """Train in a loop that does nothing else; images per second."""
    loop, warm = looped(made(case), data, case), max(2, case.batches // 10)
    for number in range(warm + case.batches):
        if number == warm:
            synchronise(case.device)
            started = perf_counter()
        next(loop)
    synchronise(case.device)
    return {"loop": case.batches * data.batch_size / (perf_counter() - started)}


def looped(module: Adversarial, data: FaceData, case: Case) -> Iterator[None]:
    """Train the module's networks, a batch with each step."""
    generator, discriminator = module.generator.to(case.device).train(), module.discriminator.to(case.device).train()
    if case.compile:
        generator.compile()
        discriminator.compile()
    optimizers = {
        player: module.optimizer_factories[player](list(network.parameters()))
        for player, network in (("discriminator", discriminator), ("generator", generator))
    }
    penalised = bool(module.terms["discriminator"])
    for batch in data.train_dataloader():
        real = batch["image"].to(case.device, non_blocking=True)
        real = to_float(real).contiguous(memory_format=torch.channels_last)
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16-mixed"):
            turns(module, optimizers, real, penalised)
        yield


def turns(module: Adversarial, optimizers: dict[str, Optimizer], real: torch.Tensor, penalised: bool) -> None:
    """Let both players step, with the same graph as the module's own turns."""
    generator, discriminator, objective = module.generator, module.discriminator, module.objective
    ask = discriminator.forward if penalised else discriminator  # forward is never compiled
    draw = torch.randn(len(real), generator.latent_dim, device=real.device)
    fake = generator(draw) if not penalised else None
    with torch.no_grad():
        shown = (fake if fake is not None else generator(draw)).detach().requires_grad_(penalised)
    torch.clear_autocast_cache()  # of casts that were made without a graph
    seen = real.requires_grad_() if penalised else real
    optimizers["discriminator"].zero_grad()
    with SecondOrder() if penalised else nullcontext():
        on_real, on_fake = (ask(x).float().logits for x in (seen, shown))
    loss = sum(objective.discriminator(r, f) for r, f in zip(on_real, on_fake, strict=True))
    for term, (logits, x) in zip(
        module.terms["discriminator"].values(), ((on_real, seen), (on_fake, shown)), strict=False
    ):
        loss = loss + term.weight_at(0) * squared_gradient(logits, x).mean() / 2
    loss.backward()
    optimizers["discriminator"].step()

    discriminator.requires_grad_(False)
    optimizers["generator"].zero_grad()
    fake = generator(torch.randn_like(draw)) if fake is None else fake
    on_fake = discriminator(fake).float().logits
    on_real = discriminator(real.detach()).float().logits if objective.relativistic else [None] * len(on_fake)
    sum(objective.generator(f, r) for f, r in zip(on_fake, on_real, strict=True)).backward()
    optimizers["generator"].step()
    discriminator.requires_grad_(True)


class Clock(Callback):
    """Times all batches but the first ones; lets a loop of its own train as many, a few at a time.

    When all are done it times a preview and a checkpoint, of which a run has a few.

    Args:
        warm: Batches before the clock starts.
        loop: Trains a batch with each step; None for none.
        device: What both train on.
        between: Batches of either, before the other's turn comes.
    """

    def __init__(self, warm: int, loop: Iterator[None] | None, device: str, between: int = BETWEEN) -> None:
        self.warm, self.loop, self.device, self.between = warm, loop, device, between
        self.seen, self.started, self.seconds, self.loop_seconds, self.occasion = 0, 0.0, 0.0, 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self.seen >= self.warm and (self.seen - self.warm) % self.between == 0:
            self.pause()
            self.let_loop(self.between)
            self.started = perf_counter()
        elif self.seen < self.warm:
            self.let_loop(1)
            self.loop_seconds = 0.0
        self.seen += 1

    def pause(self) -> None:
        """Add what has gone by since the clock was started."""
        synchronise(self.device)
        self.seconds += perf_counter() - self.started if self.started else 0.0

    def let_loop(self, batches: int) -> None:
        """Let the loop train."""
        started = perf_counter()
        for _ in range(batches if self.loop is not None else 0):
            next(self.loop)
        synchronise(self.device)
        self.loop_seconds += perf_counter() - started

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause()
        self.started = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run, preview = (next(c for c in trainer.callbacks if isinstance(c, kind)) for kind in (Run, Preview))
        started = perf_counter()
        preview.write(trainer, pl_module)
        run.save(trainer, pl_module)
        run.files.finish()
        self.occasion = perf_counter() - started


def interleaved(data: FaceData, case: Case) -> dict[str, float]:
    """Train by ``fit`` and in a loop, a few batches each at a time; images per second of both."""
    return fitted(data, case, looped(made(case), data, case))


def fitted(data: FaceData, case: Case, loop: Iterator[None] | None = None) -> dict[str, float]:
    """Train a shipped model by ``fit``; images per second."""
    return timed(made(case), data, case, Clock(max(2, case.batches // 10), loop, case.device))


def timed(module: LightningModule, data: FaceData, case: Case, clock: Clock) -> dict[str, float]:
    """Train by ``fit`` with averages, logs, the guard, previews and checkpoints; images per second, the loop's too."""
    images = (clock.warm + case.batches) * data.batch_size
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [
            Run(images, validate_every=0, save_every=0), Preview(), Guard(), ImageProgress(),
            SampleQuality(enabled=False), ReconstructionQuality(enabled=False), LikelihoodQuality(enabled=False),
            Predictions(), RecognitionQuality(), clock,
        ]  # fmt: skip
        trainer = Trainer(
            **TRAINER, accelerator="gpu" if case.device == "cuda" else "cpu", devices=case.processes,
            precision=case.precision, default_root_dir=folder, logger=default_loggers(Path(folder), "speed"),
            callbacks=callbacks, strategy=PhaseDDP() if case.processes > 1 else "auto",
        )  # fmt: skip
        trainer.fit(module, FaceData(data.dataset, data.resolution, data.batch_size))
    batch = clock.seconds / case.batches + clock.occasion * data.batch_size / OCCASION
    rates = {"fit": data.batch_size / batch, "occasion": clock.occasion}
    if clock.loop is not None:
        rates["loop"] = case.batches * data.batch_size / clock.loop_seconds
    return rates


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def tables(found: dict[str, Any]) -> list[str]:
    """Write what was found on one kind of device."""
    lines = [
        f"## Training on {found['hardware']}, torch {found['torch']}, medians of {found['rounds']} runs",
        "",
        "| model | size, batch | precision | loop | `fit` | ratio | each run | a batch costs "
        "| a preview and a checkpoint | memory, loop | `fit` |",
        "|---" * 11 + "|",
    ]
    for row in found["overhead"]:
        case = row["case"]
        how = case["precision"] + (", compiled" if case["compile"] else "")
        lines.append(
            f"| {case['model']} | {case['resolution']}², {case['batch_size']} | {how} "
            f"| {row['loop_images_per_second']:,.0f}/s | {row['fit_images_per_second']:,.0f}/s "
            f"| **{median(row['ratios']):.3f}** | {', '.join(f'{ratio:.3f}' for ratio in row['ratios'])} "
            f"| {row['milliseconds']:.2f} ms more "
            f"| {row['occasion_milliseconds']:.0f} ms | {mebibytes(row['loop_peak_bytes'])} "
            f"| {mebibytes(row['fit_peak_bytes'])} |"
        )
    if "scaling" in found:
        case = found["scaling"]["case"]
        lines += [
            "",
            f"| `fit`, {case['model']} {case['resolution']}², batch {case['batch_size']} | images/s | ratio | memory |",
            "|---|---|---|---|",
        ]
        for name, way in found["scaling"]["ways"].items():
            lines.append(
                f"| {name} | {way['images_per_second']:,.0f} | {way['ratio']:.2f} | {mebibytes(way['peak_bytes'])} |"
            )
    return [*lines, ""]


def mebibytes(peak: float) -> str:
    """Write the most memory that a process held."""
    return f"{peak / 2**20:,.0f} MiB"


if __name__ == "__main__":
    auto_cli(training)
