"""Train a narrow StyleGAN2 on 300 avatars, with and without augmentation, and watch its discriminator overfit.

python -m experiments.small_data

A variant that is already in ``experiments/small_data/results.json`` with the same settings is not trained again, and a
run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.chart import Line, Panel, save_chart
from experiments.leaderboard import scored
from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.augment.adaptive import AdaptiveAugment
from lightning_avatars.checkpoints import by_age, images_of, load_module
from lightning_avatars.data.base import FaceData
from lightning_avatars.evaluation.real import spread
from lightning_avatars.evaluation.scores import read_results
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.images import sheet, to_bytes, to_float, to_picture
from lightning_avatars.matching import data_of
from lightning_avatars.seeding import Draws, seeded

HERE = Path(__file__).with_suffix("")
SPLIT = "[0.0156,0.4844,0.5]"  # of 20,000 avatars: 300 to train on, 9,721 to compare with, 9,979 for floors and copies
JUDGED, BATCH = 3000, 100  # pictures of each kind that a discriminator judges; batches hold whole groups of its head

Variant = Literal["none", "ada", "diffaugment"]
VARIANTS: dict[Variant, list[str]] = {
    "none": ["--model", "stylegan2"],
    "ada": ["--model", "stylegan2_ada"],
    "diffaugment": [
        "--model", "stylegan2", "--model.augment", "lightning_avatars.augment.differentiable.DiffAugment",
    ],
}  # fmt: skip
COLOURS: dict[Variant, str] = {"none": "#d55e00", "ada": "#0072b2", "diffaugment": "#009e73"}
KINDS: dict[str, tuple[float, ...]] = {"train": (), "held out": (7, 4), "samples": (2, 3)}
BESIDE = ("precision", "recall", "copied")
BELOW = "images shown in training"


def small_data(
    images: int = 400_000,
    every: int = 16_000,
    seed: int = 0,
    only: list[Variant] | None = None,
    runs: Path = Path("runs/small_data"),
) -> None:
    """Train what is missing, ask every checkpoint's discriminator, and write results, chart, sheets and page.

    Args:
        images: Images that every run sees.
        every: Images between scores, and between checkpoints.
        seed: Seed of whole runs.
        only: Variants to train; by default all.
        runs: Folder of the runs, whose checkpoints are all kept.
    """
    if images < 1 or every < 1:
        raise ValueError(f"images and every must be at least 1, got {images} and {every}")
    asked = {"images": images, "every": every, "seed": seed}
    results = HERE / "results.json"
    known: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    for variant in only or get_args(Variant):
        if known.get(variant, {}).get("asked") == asked:
            continue
        folder = runs / f"{variant}_{images}_{every}_seed{seed}"
        if not finished(folder, images):
            train(variant, folder, **asked)
        known[variant] = {"asked": asked, "hardware": hardware(), "torch": torch.__version__} | measured(folder)
        save_sheet_of(by_age(folder)[-1], HERE / f"{variant}.png")
        results.write_text(json.dumps({name: known[name] for name in VARIANTS if name in known}, indent=1) + "\n")
    rows = {name: known[name] for name in VARIANTS if name in known}
    save_chart(panels(rows), 3, HERE / "curves.png")
    fill(HERE / "README.md", "results", page(rows))


# --- training


def finished(folder: Path, images: int) -> bool:
    """Tell whether a run has been scored at its end."""
    found = folder / "results.json"
    return found.is_file() and any(entry["images_seen"] >= images for entry in read_results(found))


def train(variant: Variant, folder: Path, images: int, every: int, seed: int) -> None:
    """Run one fit in a process of its own, from its last checkpoint where there is one."""
    command = [
        sys.executable, "-m", "lightning_avatars", "fit", *VARIANTS[variant],
        "--data", "avatars32", "--data.dataset.split", SPLIT, "--quality.reference", "val",
        "--run.images", str(images), "--run.validate_every", str(every), "--run.save_every", str(every),
        "--run.keep", str(images // every + 2), "--seed_everything", str(seed), "--resume", "auto",
        "--trainer.precision", "bf16-mixed", "--data.batch_size", "16",
        "--preview.every", str(every), "--trainer.default_root_dir", str(folder),
    ]  # fmt: skip
    subprocess.run(command, check=True, env=os.environ | {"WANDB_MODE": "disabled"})


# --- what the discriminators say


def measured(folder: Path) -> dict[str, Any]:
    """Put the scores of a run beside what each of its discriminators says.

    Raises:
        FileNotFoundError: No checkpoint of the run was scored.
    """
    scores = {entry["images_seen"]: entry for entry in read_results(folder / "results.json") if entry["stage"] == "val"}
    paths = [path for path in by_age(folder) if images_of(path) in scores]
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no checkpoint that was scored: remove the folder, and it is trained anew"
        )
    points, data = [], None
    for path in paths:
        module = load_module(path, "cuda" if torch.cuda.is_available() else "cpu")
        assert isinstance(module, Adversarial)  # all variants are
        data = data or opened(module.config or {})
        entry = scores[module.images_seen]
        p = float(module.augment.p) if isinstance(module.augment, AdaptiveAugment) else None
        point = {"images_seen": module.images_seen, "p": p} | opinions(module, data)
        points.append(point | {"scores": entry["scores"]})
    counts, passport = data.store.counts(), entry["passport"]
    return {"pictures": counts, "reference": passport["reference"], "training": entry["training"], "points": points}


def opened(config: dict[str, Any]) -> FaceData:
    """Open the pictures that a checkpoint was trained on."""
    data = data_of(config)
    data.prepare_data()
    data.setup("validate")
    return data


@torch.no_grad()
def opinions(module: Adversarial, data: FaceData) -> dict[str, dict[str, dict[str, float]]]:
    """Ask the discriminator about pictures it was trained on, others and the generator's, as shown to it and plain."""
    store, seeds = data.store, torch.arange(JUDGED)
    held_out = store.split("val")
    with seeded(0, module.device):
        samples = torch.cat([made(module, part) for part in seeds.split(BATCH)])
    pictures = {
        "train": real(store.read(np.resize(store.split("train"), JUDGED))),  # each as often, altered anew each time
        "held out": real(store.read(held_out[spread(len(held_out), JUDGED).numpy()])),
        "samples": samples,
    }
    return {
        how: {kind: mean_verdict(module, x.to(module.device), how == "shown") for kind, x in pictures.items()}
        for how in ("shown", "plain")
    }


def real(pictures: np.ndarray) -> Tensor:
    """Turn pictures of the store into what networks take."""
    return to_float(torch.from_numpy(pictures))


def made(module: Adversarial, seeds: Tensor) -> Tensor:
    """Draw with the generator that the discriminator plays against, and not with its average."""
    return module.generator.truncated(module.latents(seeds), None, 1.0)


def mean_verdict(module: Adversarial, images: Tensor, shown: bool) -> dict[str, float]:
    """Average sign and logit over images, where ``shown`` altered as in training, all kinds by the same draws."""
    logits = []
    for number, x in enumerate(images.split(BATCH)):
        if shown and module.augment is not None:
            x = module.augment(x, Draws(0, number * BATCH, len(x), 0, len(x), module.device), "small_data")
        logits += [logit.flatten() for logit in module.discriminator(x).float().logits]
    every = torch.cat(logits).double()
    return {"sign": float(every.sign().mean()), "logit": float(every.mean())}


def overfitting(point: dict[str, Any], how: str) -> float:
    """How near held-out pictures are to samples in the discriminator's eyes (Karras et al. 2020b, Eq. 1, r_v).

    Returns:
        0 where they are judged as training pictures are, 1 where they are judged as samples are.
    """
    train, held_out, samples = (point[how][kind]["logit"] for kind in KINDS)
    return (train - held_out) / (train - samples) if train != samples else 0.0


# --- the page


def curve(
    name: str, row: dict[str, Any], values: list[float | None], colour: str, dashes: tuple[float, ...] = ()
) -> Line:
    """Draw one value per checkpoint, over images; there is none where a generator has diverged."""
    seen = [point["images_seen"] for point in row["points"]]
    known = [(x, y) for x, y in zip(seen, values, strict=True) if y is not None]
    return Line(name, [x for x, _ in known], [y for _, y in known], colour, dashes)


def values_of(row: dict[str, Any], kind: str) -> list[float | None]:
    """List a kind of score, one for each checkpoint."""
    return [(scored(point, kind) or {"value": None})["value"] for point in row["points"]]


def panels(rows: dict[Variant, dict[str, Any]]) -> list[Panel]:
    """Lay out the chart: above what variants are compared by, below the signs of each variant."""
    gaps = {
        name: [point["shown"]["train"]["logit"] - point["shown"]["held out"]["logit"] for point in row["points"]]
        for name, row in rows.items()
    }
    above = {
        f"{fd_name(rows)} against held-out pictures": {name: values_of(row, "fd") for name, row in rows.items()},
        "recall": {name: values_of(row, "recall") for name, row in rows.items()},
        "mean logit of training pictures less that of held-out ones": gaps,
    }
    compared = [
        Panel(title, BELOW, [curve(name, rows[name], found, COLOURS[name]) for name, found in values.items()])
        for title, values in above.items()
    ]
    return compared + [Panel(f"{name}: mean sign", BELOW, signs(name, row), (-1, 1)) for name, row in rows.items()]


def signs(name: Variant, row: dict[str, Any]) -> list[Line]:
    """Draw the mean signs of the three kinds of pictures, as shown to the discriminator; and p, where there is one."""
    lines = [
        curve(kind, row, [point["shown"][kind]["sign"] for point in row["points"]], COLOURS[name], dashes)
        for kind, dashes in KINDS.items()
    ]
    strength = [point["p"] for point in row["points"]]
    return lines + ([curve("p", row, strength, "#888888", (1, 1))] if strength[-1] is not None else [])


def fd_name(rows: dict[Variant, dict[str, Any]]) -> str:
    """Name the score that variants are ordered by, with its number of samples."""
    names = next(iter(rows.values()))["points"][-1]["scores"]
    return next(name for name in names if name.startswith("fd_"))


def best_of(row: dict[str, Any], score: str) -> dict[str, Any]:
    """Find the checkpoint with the lowest score; the last one where none has a score."""
    known = [point for point in row["points"] if point["scores"][score]["value"] is not None]
    return min(known, key=lambda point: point["scores"][score]["value"], default=row["points"][-1])


def page(rows: dict[Variant, dict[str, Any]]) -> str:
    """Write the chart, the table and the sheets."""
    score, first = fd_name(rows), next(iter(rows.values()))
    made_on = ", ".join(sorted({row["hardware"] for row in rows.values()}))
    floor = first["points"][-1]["scores"][score]["floor"]
    lines = [
        "![scores, gaps and signs over images](curves.png)\n",
        f"`{score}`, its 95 % interval, precision and recall against {first['reference']['images']:,} held-out "
        f"pictures; {first['pictures']['train']} to train on. As many real pictures score {floor:.3g} (the floor). "
        f"Made on {made_on}.\n",
        f"| augmentation | checkpoint | images | `{score}` | {' | '.join(BESIDE)} | sign: {' | '.join(KINDS)} "
        "| r_v | r_v, plain | p | images/s |",
        "|---" * (len(BESIDE) + len(KINDS) + 8) + "|",
    ]
    for name, row in rows.items():
        for which, point in (("last", row["points"][-1]), ("best", best_of(row, score))):
            lines.append("| " + " | ".join([name, which, *cells(point, score), speed(row)]) + " |")
    sheets = [f"| {' | '.join(rows)} |", "|---" * len(rows) + "|"]
    sheets += ["| " + " | ".join(f"![samples of {name}]({name}.png)" for name in rows) + " |"]
    return "\n".join([*lines, "", *sheets])


def cells(point: dict[str, Any], score: str) -> list[str]:
    """Write what is known of one checkpoint."""
    found = point["scores"][score]
    interval = "" if found["interval"] is None else " [{:.3g}, {:.3g}]".format(*found["interval"])
    beside = [(scored(point, kind) or {"value": None})["value"] for kind in BESIDE]
    return [
        f"{point['images_seen']:,}",
        "diverged" if found["value"] is None else f"{found['value']:.3g}{interval}",
        *("" if value is None else f"{value:.3f}" for value in beside),
        *(f"{point['shown'][kind]['sign']:.2f}" for kind in KINDS),
        *(f"{overfitting(point, how):.2f}" for how in ("shown", "plain")),
        "" if point["p"] is None else f"{point['p']:.2f}",
    ]


def speed(row: dict[str, Any]) -> str:
    """Write how fast a run was, where that is known."""
    return f"{row['training']['images_per_second']:.0f}" if row["training"] else ""


def save_sheet_of(checkpoint: Path, path: Path) -> None:
    """Write 64 samples of a checkpoint's averaged generator as a small PNG."""
    module = load_module(checkpoint)
    assert isinstance(module, Adversarial)  # all variants are
    picture = to_picture(sheet(to_bytes(module.sample(torch.arange(64))), 8))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    auto_cli(small_data, as_positional=False)
