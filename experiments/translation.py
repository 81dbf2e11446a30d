"""Train each translation on its data, test it on held-out pictures, and write the table.

python -m experiments.translation --perceptual alex

A row that is already in ``experiments/translation`` at that number of images is not trained again, and a run that was
stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import auto_cli
from torch import Tensor

from experiments.leaderboard import schedules_of_both, scored
from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.callbacks.preview import laid_out
from lightning_avatars.checkpoints import by_age, load_module
from lightning_avatars.evaluation.reconstructions import held_out
from lightning_avatars.evaluation.scores import read_results
from lightning_avatars.families.translation import Translation
from lightning_avatars.images import sheet, to_bytes, to_picture
from lightning_avatars.matching import data_of

HERE = Path(__file__).with_suffix("")
COLUMNS, SHOWN = 8, 16  # of a sheet, and pictures of each domain
NUMBERS = {
    "psnr": ".2f",
    "mse": ".5f",
    "l1": ".4f",
    "ssim": ".3f",
    "lpips_alex": ".4f",
    "fd_avatarnet": ".3g",
    "kd_avatarnet": ".3g",
    "fid": ".3g",
    "kid": ".3g",
}
NUMBERS |= {"pixel_accuracy": ".1%", "miou": ".3f", "changed": ".1%", "kept": ".1%"}


class Row(NamedTuple):
    """A run of the table.

    Args:
        model: A shipped model.
        data: Shipped data.
        images: Images that it sees.
        further: Arguments beside those of every run.
    """

    model: str
    data: str
    images: int
    further: tuple[str, ...] = ()


SCHEDULES = "lightning_avatars.schedules"
LEVELS = f"{{class_path: {SCHEDULES}.Steps, init_args: {{values: {{0: 0.0, 1000: 1.0, 1500: 2.0}}}}}}"
EARLIER_LEVELS = ("--model.scheduled", f"{{generator.level: {LEVELS}, discriminator.level: {LEVELS}}}")


TERMS = "lightning_avatars.terms"
SEEN_BY_VGG16 = (  # and compared pixel by pixel, where the recipe asks AvatarNet, which left specks
    "--model.generator_terms",
    f"{{features: {{class_path: {TERMS}.features.FeatureMatching, init_args: {{weight: 10.0}}}}, "
    f"perceptual: {{class_path: {TERMS}.perceptual.LearnedPerceptual, init_args: {{weight: 20.0, network: vgg}}}}, "
    f"l1: {{class_path: {TERMS}.reconstruction.L1, init_args: {{weight: 100.0}}}}}}",
)
EXPRESSIONS = ("--data.dataset.attributes", "[]", "--data.batch_size", "8")  # whose face it is stays
CHANGES = ("--reconstruction.changes", "2000")
TWICE_AS_WIDE = ("--model.generator.init_args.width", "32", "--trainer.precision", "bf16-mixed")


def to_zero(lr: float, first: int, last: int) -> tuple[str, ...]:
    """Let both players' learning rates fall to zero."""
    schedule = f"{{class_path: {SCHEDULES}.Linear, init_args: {{start: {lr}, end: 0.0, first: {first}, last: {last}}}}}"
    return ("--model.optimizer_schedules", schedules_of_both({"lr": schedule}))


def in_batches_of_4(lr: float) -> tuple[str, ...]:
    """Train with more turns of as many images, the last 5,000 of 15,000 with learning rates that fall to zero."""
    return ("--data.batch_size", "4", *to_zero(lr, 10_000, 15_000))


ROWS = {
    "pix2pix_avatar_parts64": Row("pix2pix", "avatar_parts64", 20_000),
    "spade_avatar_parts64": Row("spade", "avatar_parts64", 20_000),
    "cyclegan_avatar_styles32": Row(
        "cyclegan", "avatar_styles64", 100_000, ("--data.resolution", "32", *to_zero(5e-4, 40_000, 100_000))
    ),
    "cut_avatar_styles32": Row("cut", "avatar_styles64", 16_000, ("--data.resolution", "32")),
    "stargan_avatar_expressions64": Row(
        "stargan", "avatar_expressions64", 60_000, EXPRESSIONS + to_zero(5e-4, 30_000, 60_000) + CHANGES
    ),
    "pix2pix_avatar_parts128": Row("pix2pix", "avatar_parts128", 15_000, in_batches_of_4(1e-3)),
    "pix2pixhd_avatar_parts128": Row(
        "pix2pixhd", "avatar_parts128", 15_000, in_batches_of_4(5e-4) + EARLIER_LEVELS + SEEN_BY_VGG16 + TWICE_AS_WIDE
    ),
}


def translation(
    only: list[str] | None = None,
    images: int | None = None,
    seed: int = 0,
    perceptual: str | None = None,
    extractors: str | None = None,
    segmenter: Path | None = None,
    runs: Path = Path("runs/translation"),
) -> None:
    """Fill in the missing rows and write ``experiments/translation/README.md`` anew.

    Args:
        only: Names of rows to train; by default all.
        images: Images that every run sees, instead of each row's own.
        seed: Seed of whole runs.
        perceptual: LPIPS network of the test, such as alex, whose weights must be there.
        extractors: Extractors of the test, such as avatarnet,inception, instead of the one that suits the data.
        segmenter: Weights of a segmenter of avatars' parts, for the rows that paint label maps.
        runs: Folder of the runs.
    """
    for name in only or ROWS:
        if name not in ROWS:
            raise ValueError(f"there is no row {name!r}: choose of {', '.join(ROWS)}")
        row = ROWS[name]._replace(images=images or ROWS[name].images)
        stem = f"{name}_{row.images // 1000}k_seed{seed}"
        if (HERE / f"{stem}.json").is_file():
            continue
        judges = ["--reconstruction.perceptual", perceptual] if perceptual else []
        judges += ["--reconstruction.extractors", extractors] if extractors else []
        judges += ["--reconstruction.segmenter", str(segmenter)] if segmenter and "parts" in row.data else []
        results = train(row, runs / stem, seed, judges)
        facts = {"name": name, **row._asdict(), "seed": seed, "hardware": hardware()}
        (HERE / f"{stem}.json").write_text(json.dumps(facts | {"sets": results}, indent=1) + "\n")
        save_sheets(runs / stem, stem)
    rows = [json.loads(path.read_text()) for path in sorted(HERE.glob("*_seed*.json"))]
    fill(HERE / "README.md", "results", table(rows))


def train(row: Row, folder: Path, seed: int, judges: list[str]) -> list[dict[str, Any]]:
    """Run one fit and one test in processes of their own; return the scores of the test."""
    environment = os.environ | {"WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "lightning_avatars"]
    fit = [
        "fit", "--model", row.model, "--data", row.data, *row.further, "--seed_everything", str(seed),
        "--run.images", str(row.images), "--run.validate_every", "0",
        "--run.save_every", str(max(row.images // 10, 1)), "--resume", "auto",
        "--preview.every", str(row.images), "--trainer.default_root_dir", str(folder),
    ]  # fmt: skip
    subprocess.run([*command, *fit], check=True, env=environment)
    seen = read_results(folder / "results.json")
    trained = next(entry for entry in seen if entry["images_seen"] >= row.images)["training"]  # where it first ended
    test = ["test", "--ckpt_path", str(by_age(folder)[-1]), "--trainer.default_root_dir", str(folder), *judges]
    subprocess.run([*command, *test], check=True, env=environment)
    found = [entry for entry in read_results(folder / "results.json") if entry["stage"] == "test"]
    newest = max(entry["images_seen"] for entry in found)
    return [entry | {"training": trained} for entry in found if entry["images_seen"] == newest]


def save_sheets(folder: Path, stem: str) -> None:
    """Draw sheets of the first pictures that were held out for the test, by the newest checkpoint."""
    for kind, images in held_out_previews(by_age(folder)[-1]).items():
        picture = to_picture(sheet(*laid_out(to_bytes(images), COLUMNS)))
        picture.quantize(256).save(HERE / f"{stem}_{kind}.png", optimize=True)


def held_out_previews(checkpoint: Path) -> dict[str, Tensor]:
    """Let a checkpoint translate pictures of its data's test split; return what a preview shows of them."""
    module = load_module(checkpoint)
    assert isinstance(module, Translation) and module.config is not None  # all rows are
    data = data_of(module.config)
    data.prepare_data()
    data.setup("test")
    pictures = held_out(data, "test", SHOWN * max(len(data.domain_names), 1))
    return module.preview(pictures.batch(slice(None), module.device))


def table(rows: list[dict[str, Any]]) -> str:
    """One table for each row: its sets with the scores that each of them has."""
    parts = []
    for row in rows:
        stem = f"{row['name']}_{row['images'] // 1000}k_seed{row['seed']}"
        trained = row["sets"][0]["training"]
        kinds = [kind for kind in NUMBERS if any(scored(entry, kind) for entry in row["sets"])]
        parts += [
            f"### {row['model']} on {row['data']}, {row['images']:,} images",
            "",
            *([f"With `{' '.join(row['further'])}`.", ""] if row["further"] else []),
            f"{trained['seconds']:,.0f} s, {trained['images_per_second']:.0f} images/s on {row['hardware']}, seed "
            f"{row['seed']}. {sheets(stem)}",
            "",
            f"| set | images | {' | '.join(f'`{kind}`' for kind in kinds)} |",
            "|---" * (len(kinds) + 2) + "|",
        ]
        for entry in row["sets"]:
            values = [written(scored(entry, kind), NUMBERS[kind]) for kind in kinds]
            parts.append(f"| {entry['set']} | {entry['passport']['images']:,} | {' | '.join(values)} |")
        parts.append("")
    return "\n".join(parts)


def written(score: dict[str, Any] | None, form: str) -> str:
    """Write a score, and the floor beside it where there is one."""
    if score is None:
        return ""
    floor = score.get("floor")
    return f"{score['value']:{form}}" + (f" (floor {floor:{form}})" if floor is not None else "")


def sheets(stem: str) -> str:
    """Link the sheets of a row."""
    found = sorted(HERE.glob(f"{stem}_*.png"))
    return ", ".join(f"[{path.stem.removeprefix(stem)[1:]}]({path.name})" for path in found)


if __name__ == "__main__":
    auto_cli(translation)
