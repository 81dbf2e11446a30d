"""Which player keeps StyleGAN2 behind DCGAN in short runs, and what its discriminator hardly sees.

python -m experiments.discriminators.compare

Generators and discriminators of DCGAN and StyleGAN2 play in all pairs, for an equal number of images; DCGAN's
discriminator also without its batch norm. Beside that, how strongly fresh discriminators respond to each frequency of
an image: their logit's gradient, as a power spectrum.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, auto_cli

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars import shipped
from lightning_avatars.evaluation.scores import read_results
from lightning_avatars.networks.base import Discriminator

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "README.md"
GENERATORS = ("dcgan_r1", "stylegan2")
DISCRIMINATORS: dict[str, tuple[str, dict[str, str]]] = {  # a model, and what is changed in its discriminator
    "dcgan_r1": ("dcgan_r1", {}),
    "dcgan_r1 without batch norm": ("dcgan_r1", {"normalization": "torch.nn.Identity"}),
    "stylegan2": ("stylegan2", {}),
}
SPECTRA = ("dcgan_r1", "sngan", "wgan_gp_resnet", "progan", "stylegan1", "stylegan2", "r3gan")
RESOLUTION, BANDS = 32, 5  # bands of equal width, from 0 to half the sampling rate
IMAGES, SEEDS = 64, 5


def compare(images: int = 20_000, pairs: bool = True) -> None:
    """Train all pairs, measure the spectra, and write ``results.json`` and the page.

    Args:
        images: Images that every pair sees.
        pairs: Whether to train; else only the spectra are measured anew.
    """
    os.environ["WANDB_MODE"] = "disabled"
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found = known | {"spectra": {name: spectrum(name) for name in SPECTRA}}
    if pairs:
        rows = [
            play(generator, discriminator, images) for generator, discriminator in product(GENERATORS, DISCRIMINATORS)
        ]
        found |= {"pairs": rows, "images": images, "hardware": hardware("cpu"), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    fill(PAGE, "spectra", spectra(found["spectra"]))
    fill(PAGE, "pairs", pairings(found))


def described(model: str) -> dict[str, Any]:
    """Read a shipped model's configuration."""
    made: dict[str, Any] = yaml.safe_load(shipped.find(model, "model").read_text())["init_args"]
    return made


def play(generator: str, discriminator: str, images: int) -> dict[str, Any]:
    """Train one model's generator against another's discriminator, each with its own terms and optimizer."""
    model, changes = DISCRIMINATORS[discriminator]
    theirs, other = described(generator), described(model)
    other["discriminator"].setdefault("init_args", {}).update(changes)
    parts = {key: value for key, value in other.items() if key.startswith("discriminator")}
    parts |= {key: value for key, value in theirs.items() if key.startswith("generator")}
    parts |= {key: theirs[key] for key in ("objective", "average_half_life")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.yaml"
        path.write_text(yaml.safe_dump({"class_path": shipped_class(generator), "init_args": parts}))
        command = [
            sys.executable, "-m", "lightning_avatars", "fit", "--model", str(path), "--data", "avatars32",
            "--run.images", str(images), "--run.validate_every", "0", "--run.save_every", "0", "--preview.every", "0",
            "--trainer.logger", "false", "--trainer.default_root_dir", f"{folder}/run",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        result = next(r for r in read_results(Path(folder) / "run/results.json")[::-1] if r["set"] == "samples")
    return {"generator": generator, "discriminator": discriminator} | result


def shipped_class(model: str) -> str:
    """Name the class of a shipped model."""
    name: str = yaml.safe_load(shipped.find(model, "model").read_text())["class_path"]
    return name


def fresh(model: str, seed: int) -> Discriminator:
    """Build a shipped model's discriminator with weights of its first moment."""
    torch.manual_seed(seed)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Discriminator, "discriminator")
    config = described(model)["discriminator"]
    config.setdefault("init_args", {})["resolution"] = RESOLUTION
    made: Discriminator = parser.instantiate_classes(parser.parse_object({"discriminator": config})).discriminator
    return made


def spectrum(model: str) -> list[float]:
    """Measure the power of a fresh discriminator's gradient in bands of frequency, as shares of the lowest band's."""
    step = torch.fft.fftfreq(RESOLUTION)
    frequency = (step[:, None] ** 2 + step**2).sqrt()
    total = torch.zeros(BANDS)
    for seed in range(SEEDS):
        discriminator = fresh(model, seed)
        x = torch.randn(IMAGES, 3, RESOLUTION, RESOLUTION, requires_grad=True)
        (gradient,) = torch.autograd.grad(discriminator(x).logits[0].sum(), x)
        power = torch.fft.fft2(gradient).abs().square().mean((0, 1))
        band = (frequency / 0.5 * BANDS).long()
        total += torch.stack([power[band == number].mean() for number in range(BANDS)])
    return [round(share, 5) for share in (total / total[0]).tolist()]


def spectra(found: dict[str, list[float]]) -> str:
    """Lay the spectra out, one discriminator a line."""
    edges = [f"to {(number + 1) / BANDS:.0%}" for number in range(BANDS)]
    lines = [f"| discriminator of | {' | '.join(edges)} |", "|---" * (BANDS + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{share:.3g}' for share in shares)} |" for name, shares in found.items()]
    return "\n".join(lines)


def pairings(found: dict[str, Any]) -> str:
    """Lay the scores of the pairs out."""
    score = "fd_avatarnet_5k"
    lines = [
        f"After {found['images']:,} images of avatars32, seed 0, on {found['hardware']}:\n",
        f"| generator | discriminator and its terms | `{score}` | precision | images/s |",
        "|---|---|---|---|---|",
    ]
    for row in found["pairs"]:
        scores, pace = row["scores"], row["training"]["images_per_second"]
        precision = next(s["value"] for name, s in scores.items() if name.startswith("precision"))
        cells = [row["generator"], row["discriminator"], f"{scores[score]['value']:.3g}"]
        lines.append("| " + " | ".join([*cells, f"{precision:.3f}", f"{pace:.0f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(compare)
