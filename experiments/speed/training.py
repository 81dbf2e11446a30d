"""How near `fit`, with everything that it does beside training, comes to the fastest plain loop.

python experiments/speed/training.py

Both train the same networks on the same batches, turn by turn in one process: segments of the loop and of ``fit`` take
turns, and the ratio of each pair of neighbours is taken; the median is reported.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import yaml
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_avatars import shipped
from lightning_avatars.callbacks.guard import Guard
from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.progress import ImageProgress
from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import TRAINER
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import to_float
from lightning_avatars.loggers import default_loggers
from lightning_avatars.terms.gradients import squared_gradient

RESULTS = Path(__file__).with_name("training.json")
CASES = {"dcgan": (32, 64), "r3gan": (64, 32)}  # model -> resolution, batch size on a processor
GPU_CASES = {"dcgan": (64, 256), "r3gan": (64, 256)}


def training(
    rounds: int = 3, batches: int = 400, device: str = "cpu", precision: str = "32-true", write: bool = True
) -> None:
    """Measure each case and write ``training.json``.

    Args:
        rounds: Pairs of segments.
        batches: Batches of a segment; a tenth as many come before the clock starts.
        device: ``cpu`` or ``cuda``.
        precision: Of ``fit``; the loop uses autocast to bfloat16 where it is ``bf16-mixed``.
        write: Write the results.
    """
    os.environ["WANDB_MODE"] = "disabled"
    rows = []
    for model, (resolution, size) in (GPU_CASES if device == "cuda" else CASES).items():
        data = FaceData(Avatars(2_000), resolution=resolution, batch_size=size)
        data.prepare_data()
        data.setup("fit")
        rates: dict[str, list[float]] = {"loop": [], "fit": []}
        for _ in range(rounds):
            rates["loop"].append(plain(made(model, resolution), data, batches, device, precision))
            rates["fit"].append(fitted(made(model, resolution), data, batches, device, precision))
        ratio = median(fit / loop for fit, loop in zip(rates["fit"], rates["loop"], strict=True))
        cost = median(size / fit - size / loop for fit, loop in zip(rates["fit"], rates["loop"], strict=True)) * 1e3
        row = {
            "model": model, "resolution": resolution, "batch_size": size, "precision": precision,
            "loop_images_per_second": round(median(rates["loop"]), 1),
            "fit_images_per_second": round(median(rates["fit"]), 1),
            "ratio": round(ratio, 4), "milliseconds_per_batch": round(cost, 2), "rounds": rounds, "batches": batches,
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    if write:
        hardware = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
        facts = {"hardware": hardware, "machine": platform.machine(), "torch": torch.__version__, "rows": rows}
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


def made(model: str, resolution: int) -> Adversarial:
    """Build a shipped model at a resolution."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    described = yaml.safe_load(shipped.find(model, "model").read_text())
    for player in ("generator", "discriminator"):
        described["init_args"][player].setdefault("init_args", {})["resolution"] = resolution
    torch.manual_seed(0)
    return parser.instantiate_classes(parser.parse_object({"model": described})).model


def plain(module: Adversarial, data: FaceData, batches: int, device: str, precision: str) -> float:
    """Train the module's networks in a loop that does nothing else; return images per second."""
    generator, discriminator = module.generator.to(device).train(), module.discriminator.to(device).train()
    optimizers = {
        player: module.optimizer_factories[player](list(network.parameters()))
        for player, network in (("discriminator", discriminator), ("generator", generator))
    }
    penalised = bool(module.terms["discriminator"])
    loader, started, warm = iter(data.train_dataloader()), 0.0, max(2, batches // 10)
    for number in range(warm + batches):
        if number == warm:
            synchronise(device)
            started = perf_counter()
        batch = next(loader)
        real = to_float(batch["image"].to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            turns(module, optimizers, real, penalised)
    synchronise(device)
    return batches * data.batch_size / (perf_counter() - started)


def turns(module: Adversarial, optimizers: dict[str, Optimizer], real: torch.Tensor, penalised: bool) -> None:
    """Let both players step, with the same graph as the module's own turns."""
    generator, discriminator, objective = module.generator, module.discriminator, module.objective
    draw = torch.randn(len(real), generator.latent_dim, device=real.device)
    fake = generator(draw) if not penalised else None
    shown = fake.detach() if fake is not None else generator(draw).detach().requires_grad_()
    seen = real.requires_grad_() if penalised else real
    optimizers["discriminator"].zero_grad()
    on_real, on_fake = (discriminator(x).float().logits for x in (seen, shown))
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
    """Times all batches but the first ones.

    Args:
        warm: Batches before the clock starts.
    """

    def __init__(self, warm: int) -> None:
        self.warm, self.seen, self.started, self.seconds = warm, 0, 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self.seen == self.warm:
            synchronise(pl_module.device.type)
            self.started = perf_counter()
        self.seen += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronise(pl_module.device.type)
        self.seconds = self.seconds or perf_counter() - self.started


def fitted(module: Adversarial, data: FaceData, batches: int, device: str, precision: str) -> float:
    """Train by ``fit`` with averages, logs, previews, the guard and a checkpoint in the segment; images per second."""
    warm = max(2, batches // 10)
    images = (warm + batches) * data.batch_size
    clock = Clock(warm)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(images, validate_every=0, save_every=images // 2)
        callbacks = [run, Preview(images // 2), Guard(), ImageProgress(), clock]
        trainer = Trainer(
            **TRAINER, accelerator="gpu" if device == "cuda" else "cpu", devices=1, precision=precision,
            default_root_dir=folder, logger=default_loggers(Path(folder), "speed"), callbacks=callbacks,
        )  # fmt: skip
        fresh = FaceData(data.dataset, data.resolution, data.batch_size)
        trainer.fit(module, fresh)
    return batches * data.batch_size / clock.seconds


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    auto_cli(training)
