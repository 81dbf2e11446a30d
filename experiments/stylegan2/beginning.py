"""What a narrow StyleGAN2 begins slowly by: its recipe, with one thing changed at a time.

python -m experiments.stylegan2.beginning

A way that is in ``results.json`` at that number of images, and whose run is still there, is not trained again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from PIL import Image

from experiments.leaderboard import STYLEGAN2_BEFORE, of_both, scored
from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.evaluation.scores import read_results

HERE = Path(__file__).parent
RESULTS, PAGE, SHEET = HERE / "results.json", HERE / "README.md", HERE / "beginning.png"
SCORES = ("fd", "precision", "recall")


def learning_rates(rate: str) -> tuple[str, ...]:
    """Write arguments that give both players a learning rate."""
    return tuple(f"--model.{player}_optimizer.init_args.lr={rate}" for player in ("generator", "discriminator"))


WAYS: dict[str, tuple[str, tuple[str, ...]]] = {  # a model, and the arguments of its fit
    "stylegan2 as it is": ("stylegan2", ()),
    "with noise": ("stylegan2", ("--model.generator.init_args.noisy=true",)),
    "learning rates of 2.5e-3 for 1e-2": ("stylegan2", learning_rates("2.5e-3")),
    "R1's weight 10 for 1": ("stylegan2", ("--model.discriminator_terms.r1.init_args.weight=10",)),
    "half the width": ("stylegan2", of_both("width=16")),
    "all as it was: noise, half the width, R1's weight 10, 4e-3 and 8e-3": ("stylegan2", STYLEGAN2_BEFORE),
    "dcgan": ("dcgan", ()),
    "dcgan_r1": ("dcgan_r1", ()),
}


def beginning(images: int = 20_000, batch: int = 16, runs: Path = Path("runs/stylegan2")) -> None:
    """Train what is missing, and write ``results.json``, the sheet and the page.

    Args:
        images: Images that every run sees.
        batch: Images of a batch.
        runs: Folder of the runs.
    """
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    asked = {"images": images, "batch": batch}
    strips = {}
    for number, (name, (model, further)) in enumerate(WAYS.items()):
        folder = runs / f"{number}_{images}_{batch}"
        if known.get(name, {}).get("asked") != asked or not folder.is_dir():
            known[name] = {"asked": asked, "further": list(further)} | play(model, further, folder, images, batch)
            RESULTS.write_text(json.dumps({way: known[way] for way in WAYS if way in known}, indent=1) + "\n")
        strips[name] = first_row(folder)
    save_strips(list(strips.values()), SHEET)
    fill(PAGE, "beginning", table(known))


def play(model: str, further: tuple[str, ...], folder: Path, images: int, batch: int) -> dict[str, Any]:
    """Train in a process of its own; return the scores."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable, "-m", "lightning_avatars", "fit", "--model", model, "--data", "avatars32",
        "--data.batch_size", str(batch), "--run.images", str(images), "--run.validate_every", "0",
        "--run.save_every", "0", "--preview.every", str(images), "--trainer.default_root_dir", str(folder), *further,
    ]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"WANDB_MODE": "disabled"})
    result = next(entry for entry in read_results(folder / "results.json")[::-1] if entry["set"] == "samples")
    return {"hardware": hardware("cpu"), "torch": torch.__version__} | result


def first_row(folder: Path) -> Image.Image:
    """Cut the first eight samples from the newest sheet of a run."""
    with Image.open(max((folder / "previews").glob("samples_*.png"))) as picture:
        return picture.convert("RGB").crop((0, 0, picture.width, picture.width // 8))


def save_strips(strips: list[Image.Image], path: Path) -> None:
    """Write rows of pictures, one below another, twice as large."""
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, height * len(strips)), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, height * number))
    sheet.resize((2 * width, 2 * height * len(strips)), Image.Resampling.NEAREST).quantize(256).save(
        path, optimize=True
    )


def table(rows: dict[str, Any]) -> str:
    """Lay the scores out, one way a line."""
    one = next(iter(rows.values()))
    made_on = ", ".join(sorted({row["hardware"] for row in rows.values()}))
    name = next(score for score in one["scores"] if score.startswith("fd_"))
    batch = one["asked"]["batch"]
    lines = [
        f"Seed 0, after {one['images_seen']:,} images of avatars32 in batches of {batch}, on {made_on}. All but the "
        "first and the DCGANs are `stylegan2` with one thing changed, or all of it:\n",
        f"| way | `{name}` | {' | '.join(SCORES[1:])} | images/s |",
        "|---" * (len(SCORES) + 2) + "|",
    ]
    for way, row in rows.items():
        distance, *others = ((scored(row, kind) or {"value": float("nan")})["value"] for kind in SCORES)
        pace = row["training"]["images_per_second"]
        lines.append(f"| {way} | {distance:.3g} | {' | '.join(f'{x:.3f}' for x in others)} | {pace:.0f} |")
    return "\n".join([*lines, "", f"![the first eight samples of each, in this order]({SHEET.name})"])


if __name__ == "__main__":
    auto_cli(beginning, as_positional=False)
