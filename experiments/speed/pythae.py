"""How fast a variational autoencoder trains here and by the PyPI package pythae, and in how much memory.

python -m experiments.speed.pythae --other <folder>, made by `pip install --target <folder> --no-deps pythae cloudpickle
imageio joblib narwhals scikit-learn scipy threadpoolctl`, which is pythae and what it imports, without another torch

Timed are whole trainings by each package's front door, from the end of the first pass over the pictures to the trained
weights on the disk; nothing is evaluated. Both train our networks from the same weights, with Adam, on the same bytes,
which ours read from the cache and theirs from tensors in [0, 1].

`ours` is `fit` as configs/model/vae.yaml has it: fused Adam, averaged weights, channels-last tensors, losses in a CSV
file and for the dashboard every 50 batches, the guard, a progress bar, a checkpoint from which training goes on
exactly. Batches are drawn so that they depend on nothing but the seed and the images seen; with Bernoulli pixels
pictures are made black and white anew each time. Previews and scores are off. `ours, bf16` adds `--trainer.precision
bf16-mixed`, which pythae has for CUDA alone; `ours, bf16, no average` leaves out the averaged weights too, which pythae
has not.

`pythae` is its `TrainingPipeline` with default settings: torch's default Adam, a progress bar, the mean loss of each
pass on the console, a copy of the network after each pass that was better than all before, the last such copy on the
disk. Its networks are ours, wrapped; its decoder ends in a sigmoid where the loss is cross-entropy, as its own do.
`pythae, fused` is told to use fused Adam. `pythae, torch's layers` has torch's convolutions where ours compute two as
matrix products (networks/layers/vectors.py): the same network, written as one writes it for that package.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim import Adam

from experiments.machine import hardware, high_water
from experiments.pages import fill
from lightning_avatars.callbacks.guard import Guard
from lightning_avatars.callbacks.progress import ImageProgress
from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import TRAINER
from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.loggers import default_loggers
from lightning_avatars.networks.autoencoder import Autoencoder
from lightning_avatars.networks.convolutional import ConvolutionalAutoencoder
from lightning_avatars.networks.mlp_autoencoder import MLPAutoencoder
from lightning_avatars.objectives.likelihoods import Bernoulli, Gaussian

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "pythae.json", HERE / "README.md"

SIDE, LEARNING_RATE = 32, 1e-3
BASE = "pythae"
NETWORKS: dict[str, Callable[[int], Autoencoder]] = {
    "convolutional": lambda channels: ConvolutionalAutoencoder(SIDE, channels),
    "dense": lambda channels: MLPAutoencoder(SIDE, channels),
}


@dataclass(frozen=True)
class Case:
    """What a segment trains.

    Args:
        network: ``convolutional``, that of configs/model/vae.yaml, or ``dense``.
        loss: ``bce``, Bernoulli pixels of 1 channel, or ``mse``, Gaussian ones of 3 channels and deviation 1.
        batch_size: Images of a batch.
        pictures: Pictures of a pass, a multiple of ``batch_size``; one pass comes before the clock starts.
        passes: Passes that are timed.
        threads: Of the CPU.
    """

    network: str
    loss: str
    batch_size: int = 64
    pictures: int = 4096
    passes: int = 3
    threads: int = 2

    @property
    def channels(self) -> int:
        return 1 if self.loss == "bce" else 3

    @property
    def warm(self) -> int:
        """Batches before the clock starts."""
        return self.pictures // self.batch_size


CASES = (Case("convolutional", "bce"), Case("convolutional", "mse"), Case("dense", "bce", passes=9))


def pythae(other: Path, rounds: int = 5, threads: int = 2, passes: int | None = None, write: bool = True) -> None:
    """Measure each case on the CPU; write ``pythae.json`` and the page's table.

    Args:
        other: Folder that pythae is installed in.
        rounds: Segments of each kind.
        threads: Threads of a segment.
        passes: Timed passes over the pictures, instead of each case's own.
        write: Whether to write what was found; else it is only shown.
    """
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(threads)
    cases = [replace(case, threads=threads, passes=passes or case.passes) for case in CASES]
    found: dict[str, Any] = {"hardware": hardware("cpu"), "torch": torch.__version__, "rounds": rounds}
    found["cases"] = [compared(case, other, rounds) for case in cases]
    if write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        fill(PAGE, "pythae", "\n".join(table(found)))


def compared(case: Case, other: Path, rounds: int) -> dict[str, Any]:
    """Let all take turns, each in a process of its own; each is compared with pythae in the same round."""
    ways: dict[str, Callable[[Case, FaceData, Path], dict[str, Any]]] = {
        "ours": ours,
        "ours, bf16": partial(ours, precision="bf16-mixed"),
        "ours, bf16, no average": partial(ours, precision="bf16-mixed", average=False),
        BASE: partial(theirs, package=other),
        "pythae, fused": partial(theirs, package=other, fused=True),
    }
    if case.network == "convolutional":
        ways["pythae, torch's layers"] = partial(theirs, package=other, plain=True)
    segments = [{name: alone(work, case) for name, work in ways.items()} for _ in range(rounds)]
    row: dict[str, Any] = {"case": asdict(case), "ways": {}}
    for name in ways:
        found, base = [one[name] for one in segments], [one[BASE] for one in segments]
        row["ways"][name] = {
            "images_per_second": round(median(one["rate"] for one in found), 1),
            "processor_milliseconds": round(median(1e3 * case.batch_size / one["worked"] for one in found), 2),
            "times_pythae": [round(a["rate"] / b["rate"], 3) for a, b in zip(found, base, strict=True)],
            "work_of_pythae": round(median(b["worked"] / a["worked"] for a, b in zip(found, base, strict=True)), 3),
            "peak_bytes": int(median(one["peak"] for one in found)),
            "parameters": found[0]["parameters"],
        }
    print(json.dumps(row), flush=True)
    return row


def alone(work: Callable[[Case, FaceData, Path], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Run one segment in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(segment, work, case).result()


def segment(work: Callable[[Case, FaceData, Path], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Be the process of a segment."""
    torch.set_num_threads(case.threads)
    data = FaceData(Noise(case.pictures, case.channels), SIDE, case.batch_size)
    data.prepare_data()
    data.setup("fit")
    with tempfile.TemporaryDirectory() as folder:
        return work(case, data, Path(folder))


class Noise(FaceDataset):
    """Random bytes, black and white ones where there is one channel; all but a few are for training.

    Args:
        count: Pictures for training.
        channels: Channels of the pictures.
    """

    name, label_names = "noise", []

    def __init__(self, count: int, channels: int) -> None:
        super().__init__("standard")
        self.count, self.channels = count, channels

    def fingerprint(self) -> dict[str, object]:
        return {"count": self.count, "channels": self.channels}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        generator, none = np.random.default_rng(0), np.zeros(0, np.float32)
        for number in range(self.count + 2):
            image = generator.integers(256, size=(self.channels, resolution, resolution), dtype=np.uint8)
            if self.channels == 1:
                image = (image >> 7) * np.uint8(255)
            split = "train" if number < self.count else "val" if number == self.count else "test"
            yield Picture(str(number), image, none, number.to_bytes(16, "big"), split=split)


class Clock:
    """Times a training after its first batches, by the clock and by the work of all cores."""

    def start(self) -> None:
        self.started, self.worked = perf_counter(), process_time()

    def measured(self, case: Case, network: nn.Module) -> dict[str, Any]:
        """Images per second, and per second of a core, until now; and the most bytes that this process has held."""
        images, seconds = case.passes * case.pictures, perf_counter() - self.started
        return {
            "rate": images / seconds,
            "worked": images / (process_time() - self.worked),
            "peak": high_water(),
            "parameters": sum(p.numel() for p in network.parameters()),
        }


def made(case: Case) -> Autoencoder:
    """Make the network, the same each time."""
    torch.manual_seed(0)
    return NETWORKS[case.network](case.channels)


# --- ours


class Started(Callback):
    """Starts the clock after the first batches.

    Args:
        clock: What is started.
        warm: Number of these batches.
    """

    def __init__(self, clock: Clock, warm: int) -> None:
        self.clock, self.warm = clock, warm

    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        if batch_idx == self.warm:
            self.clock.start()


def ours(
    case: Case,
    data: FaceData,
    folder: Path,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    average: bool = True,
) -> dict[str, Any]:
    """Train by ``fit``."""
    clock, network = Clock(), made(case)
    likelihood = Bernoulli() if case.loss == "bce" else Gaussian(learned=False)
    half_life = {} if average else {"average_half_life": None}
    module = Autoencoding(network, likelihood, partial(Adam, lr=LEARNING_RATE, fused=True), **half_life)
    images = (1 + case.passes) * case.pictures
    callbacks = [Run(images, validate_every=0, save_every=0), Guard(), ImageProgress(), Started(clock, case.warm)]
    trainer = Trainer(
        **TRAINER, accelerator="cpu", devices=1, precision=precision, default_root_dir=folder,
        logger=default_loggers(folder, "speed"), limit_val_batches=0, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, FaceData(data.dataset, SIDE, case.batch_size))
    return clock.measured(case, network)


# --- theirs


def theirs(
    case: Case, data: FaceData, folder: Path, package: Path, fused: bool = False, plain: bool = False
) -> dict[str, Any]:
    """Train by the package's ``TrainingPipeline``."""
    sys.path.append(os.fspath(package))  # behind this environment's own
    models, pipelines, trainers = (import_module(f"pythae.{name}") for name in ("models", "pipelines", "trainers"))
    callbacks = import_module("pythae.trainers.training_callbacks")
    clock, network = Clock(), made(case)
    if plain:
        with_torchs_layers(network)

    class Started(callbacks.TrainingCallback):  # type: ignore[name-defined, misc]
        def on_epoch_begin(self, config: object, **given: Any) -> None:  # noqa: ANN401
            if given["epoch"] == 2:
                clock.start()

    encoder, decoder = wrapped(network, case)
    settings = models.VAEConfig((case.channels, SIDE, SIDE), network.latent_dim, reconstruction_loss=case.loss)
    config = trainers.BaseTrainerConfig(
        os.fspath(folder),
        case.batch_size,
        num_epochs=1 + case.passes,
        optimizer_params={"fused": True} if fused else None,
        learning_rate=LEARNING_RATE,
    )
    model = models.VAE(settings, encoder, decoder)
    pictures = torch.from_numpy(data.store.read(data.store.split("train"))) / 255
    pipelines.TrainingPipeline(model, config)(pictures, callbacks=[Started()])
    return clock.measured(case, model)


def with_torchs_layers(network: Autoencoder) -> None:
    """Replace a convolutional network's matrix products by the convolutions that they are."""
    encoder, decoder = network.encoder, network.decoder
    halves = ((encoder, "head", nn.Conv2d), (decoder.stages, "0", nn.ConvTranspose2d))
    for owner, name, kind in halves:
        layer = getattr(owner, name)
        plain = kind(layer.in_channels, layer.out_channels, layer.kernel_size)
        plain.load_state_dict(layer.state_dict())
        setattr(owner, name, plain)


def wrapped(network: Autoencoder, case: Case) -> tuple[nn.Module, nn.Module]:
    """Dress the halves of a network as the package's encoder and decoder."""
    parts, output = import_module("pythae.models.nn"), import_module("pythae.models.base.base_utils").ModelOutput
    dense = case.network == "dense"
    halves = (
        nn.Sequential(nn.Flatten() if dense else nn.Identity(), network.encoder),
        nn.Sequential(nn.Identity() if dense else nn.Unflatten(1, (network.latent_dim, 1, 1)), network.decoder),
    )

    class Encoder(parts.BaseEncoder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = halves[0]

        def forward(self, x: Tensor) -> Any:  # noqa: ANN401
            mean, log_variance = self.layers(x).flatten(1).chunk(2, dim=1)
            return output(embedding=mean, log_covariance=log_variance)

    class Decoder(parts.BaseDecoder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = halves[1]

        def forward(self, z: Tensor) -> Any:  # noqa: ANN401
            made = self.layers(z)
            return output(reconstruction=made.sigmoid() if case.loss == "bce" else made)

    return Encoder(), Decoder()


# --- the page


def table(found: dict[str, Any]) -> list[str]:
    """Write what was found."""
    lines = [
        f"### Autoencoders on {found['hardware']}, torch {found['torch']}, medians of {found['rounds']} segments",
        "",
        "| network, loss | size, batch | | parameters | images/s | of pythae's | each round "
        "| cores' work a batch | of pythae's | memory |",
        "|---" * 10 + "|",
    ]
    for row in found["cases"]:
        case = row["case"]
        size = f"{SIDE}² x {1 if case['loss'] == 'bce' else 3}, {case['batch_size']}"
        for name, way in row["ways"].items():
            lines.append(
                f"| {case['network']}, {case['loss']} | {size} | {name} | {way['parameters'] / 1e6:.2f} M "
                f"| {way['images_per_second']:,.0f} | **{median(way['times_pythae']):.2f}** "
                f"| {', '.join(f'{ratio:.2f}' for ratio in way['times_pythae'])} "
                f"| {way['processor_milliseconds']:.1f} ms | {way['work_of_pythae']:.2f} "
                f"| {way['peak_bytes'] / 2**20:,.0f} MiB |"
            )
    return [*lines, ""]


if __name__ == "__main__":
    auto_cli(pythae, as_positional=False)
