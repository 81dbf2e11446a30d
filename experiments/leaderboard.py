"""Train every model on every dataset for an equal number of images, score them, and write the table.

python -m experiments.leaderboard --images 100_000 --paths.mnist32 <folder of the idx files>

A row that is already in ``experiments/results`` at that number of images is not trained again, and a run that was
stopped goes on. ``--variant`` trains the models in another way than their configurations say, one of ``VARIANTS``,
beside the rows that there are. ``--fid 2000`` adds what Inception says of so many samples, also to rows whose
checkpoints are still in ``runs/leaderboard``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from jsonargparse import auto_cli
from PIL import Image

from experiments.inception import in_inceptions_features
from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars import shipped
from lightning_avatars.checkpoints import by_age
from lightning_avatars.evaluation.scores import read_results
from lightning_avatars.metrics.weights import ALEXNET, ALEXNET_FEATURES, weights_folder

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results", HERE / "README.md"
BESIDE = ("precision", "recall", "coverage", "copied")
FURTHER = ("FID", "attributes right", "seconds", "images/s", "seeds", "sheet")
TRANSLATIONS = ("pix2pix", "pix2pixhd", "spade", "cyclegan", "cut", "stargan")  # experiments.translation has these
OF_PICTURES = {  # of what a model makes of given pictures: column -> set and kind of score, and how it is written
    "PSNR": ("reconstruction", "psnr", ".1f"),
    "SSIM": ("reconstruction", "ssim", ".3f"),
    "LPIPS": ("reconstruction", "lpips_alex", ".4f"),
    "`fd`": ("reconstruction", "fd", ".3g"),
    "bits per dimension": ("likelihood", "bpd_iwae10", ".2f"),
    "by the ELBO": ("likelihood", "bpd_elbo", ".2f"),
    "nats of latents": ("likelihood", "rate", ".3g"),
    "words used": ("likelihood", "codes_used", ".1%"),
}
MODELS = [name for name in shipped.names("model") if name not in (*TRANSLATIONS, "recognition", "segmentation")]
RUNS = Path("runs/leaderboard")
FIRST_STAGES = {"vqgan_prior": "vqgan"}


def cosine(start: float, end: float) -> str:
    """Write a schedule that ends with the run."""
    return (
        f"{{class_path: lightning_avatars.schedules.Cosine, init_args: {{start: {start}, end: {end}, last: IMAGES}}}}"
    )


def schedules_of_both(options: dict[str, str]) -> str:
    """Write the schedules of both players' optimizers, given one for each option."""
    players = ("generator", "discriminator")
    chosen = (f"{player}.{name}: {schedule}" for player in players for name, schedule in options.items())
    return f"{{{', '.join(chosen)}}}"


def falling(options: dict[str, str], terms: dict[str, str]) -> tuple[str, ...]:
    """Write arguments that give both players' optimizers, and the discriminator's terms, schedules.

    Args:
        options: Option of the optimizers -> its schedule.
        terms: Term -> the schedule of its weight.
    """
    weights = [f"--model.discriminator_terms.{term}.init_args.weight={weight}" for term, weight in terms.items()]
    return (f"--model.optimizer_schedules={schedules_of_both(options)}", *weights)


def of_both(argument: str) -> tuple[str, ...]:
    """Give both players' networks an argument."""
    return tuple(f"--model.{player}.init_args.{argument}" for player in ("generator", "discriminator"))


R3GAN = falling({"lr": cosine(2e-3, 5e-4), "beta2": cosine(0.9, 0.99)}, dict.fromkeys(("r1", "r2"), cosine(1.0, 0.1)))
STYLEGAN2 = falling({"lr": cosine(1e-2, 2.5e-3)}, {"r1": cosine(1.0, 0.3)})
STYLEGAN2_BEFORE = (
    *of_both("width=16"),
    "--model.generator.init_args.noisy=true",
    "--model.discriminator_terms.r1.init_args.weight=10",
    "--model.generator_optimizer.init_args.lr=4e-3",
    "--model.discriminator_optimizer.init_args.lr=8e-3",
)


class Variant(NamedTuple):
    """Another way to train than the configurations say.

    Args:
        meaning: What the table says of it.
        arguments: Of every model's fit; ``IMAGES`` stands for the number of images.
        of_models: Model -> further arguments of its fit.
    """

    meaning: str
    arguments: tuple[str, ...] = ()
    of_models: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never changed


VARIANTS = {
    "b16": Variant(
        "batches of 16, four times as many turns; r3gan, stylegan2 and stylegan2_ada with learning rates and penalties "
        "that fall until the run ends, r3gan in bfloat16",
        ("--data.batch_size=16", "--run.validate_every=50000"),
        {"r3gan": ("--trainer.precision=bf16-mixed", *R3GAN), "stylegan2": STYLEGAN2, "stylegan2_ada": STYLEGAN2},
    ),
    "b16 bf16": Variant(
        "batches of 16 in bfloat16; r3gan and the StyleGANs with schedules as in b16",
        ("--data.batch_size=16", "--run.validate_every=25000", "--trainer.precision=bf16-mixed"),
        {"r3gan": R3GAN, **dict.fromkeys(("stylegan1", "stylegan2", "stylegan2_ada", "stylegan3"), STYLEGAN2)},
    ),
    "width 8": Variant("the narrowest network, of 65,000 parameters a player", of_models={"r3gan": of_both("width=8")}),
    "noisy": Variant(
        "with noise, half the width, ten times R1's weight and smaller learning rates, as the recipes were",
        of_models={"stylegan2": STYLEGAN2_BEFORE, "stylegan2_ada": STYLEGAN2_BEFORE},
    ),
}


class Entry(NamedTuple):
    """A run of the table.

    Args:
        model: Shipped model configuration.
        data: Shipped data configuration.
        seed: Seed of the whole run.
        images: Images that it sees.
        path: Folder of the pictures, where they are not drawn here.
        variant: One of ``VARIANTS``, or None for the configuration as it is.
    """

    model: str
    data: str
    seed: int
    images: int
    path: str | None = None
    variant: str | None = None

    @property
    def row(self) -> Path:
        """Where the row is kept."""
        variant = f"_{self.variant.replace(' ', '')}" if self.variant else ""
        return RESULTS / f"{self.model}_{self.data}_{self.images // 1000}k{variant}_seed{self.seed}.json"

    @property
    def further(self) -> list[str]:
        """Arguments of its fit beside those of every run."""
        if self.variant is None:
            return []
        variant = VARIANTS[self.variant]
        chosen = (*variant.arguments, *variant.of_models.get(self.model, ()))
        return [argument.replace("IMAGES", str(self.images)) for argument in chosen]


def leaderboard(
    models: list[str] = MODELS,
    data: list[str] = ["avatars32", "mnist32"],  # noqa: B006 - never changed
    seeds: list[int] = [0],  # noqa: B006 - never changed
    images: int = 100_000,
    paths: dict[str, str] | None = None,
    variant: str | None = None,
    fid: int | None = None,
) -> None:
    """Fill in the missing rows and write ``experiments/README.md`` anew.

    Args:
        models: Shipped model configurations.
        data: Shipped data configurations.
        seeds: Seeds of whole runs.
        images: Images that every run sees.
        paths: Data configuration -> folder of the pictures, where they are not drawn here.
        variant: Another way to train than the configurations say.
        fid: How many samples to take the Fréchet Inception distance of, which takes minutes; by default none is taken.
    """
    if variant not in (None, *VARIANTS):
        raise ValueError(f"there is no variant {variant!r}: choose of {', '.join(VARIANTS)}")
    for model, faces, seed in product(models, data, seeds):
        entry = Entry(model, faces, seed, images, (paths or {}).get(faces), variant)
        if not entry.row.is_file():
            train(entry)
        if fid is not None:
            judge(entry, fid)
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*_seed*.json"))]
    fill(TABLE, "leaderboard", table(rows))
    fill(TABLE, "reconstructions", reconstructions(rows))
    fill(TABLE, "recognisers", "\n".join(recogniser(RESULTS / f"{name}.json") for name in ("avatarnet", "mnistnet")))


def recogniser(path: Path) -> str:
    """Write the test accuracies of a recogniser, from the ``results.json`` of its run."""
    result = next(r for r in json.loads(path.read_text())["results"] if r["stage"] == "test")
    values = {name: score["value"] for name, score in result["scores"].items()}
    groups = ", ".join(f"{k.partition('/')[2]} {v:.1%}" for k, v in values.items() if "/" in k)
    return f"- `{path.stem}`, {result['images_seen']:,} images: {groups}; mean {values['accuracy']:.1%}."


def train(entry: Entry) -> None:
    """Run one fit in a process of its own and keep its score and its sheet."""
    folder = RUNS / entry.row.stem
    command = [
        sys.executable, "-m", "lightning_avatars", "fit", "--model", entry.model, "--data", entry.data,
        "--seed_everything", str(entry.seed), "--run.images", str(entry.images), "--run.validate_every", "0",
        "--preview.every", str(entry.images), "--trainer.default_root_dir", str(folder), "--resume", "auto",
        *entry.further,
    ]  # fmt: skip
    command += ["--data.dataset.path", entry.path] if entry.path else []
    command += ["--reconstruction.perceptual", "alex"] if alexnet_is_there() else []
    facts = {"model": entry.model, "data": entry.data, "seed": entry.seed, "hardware": hardware()}
    facts |= {"variant": entry.variant, "further": entry.further} if entry.variant else {}
    if entry.model in FIRST_STAGES:
        first = first_stage(entry)
        checkpoint = max((RUNS / first.stem / "checkpoints").glob("images_*.ckpt"))
        command += ["--model.first_stage", str(checkpoint)]
        facts["first_stage_seconds"] = json.loads(first.read_text())["training"]["seconds"]
    subprocess.run(command, check=True, env=os.environ | {"WANDB_MODE": "disabled"})
    keep(folder, entry.row, facts)


def judge(entry: Entry, images: int) -> None:
    """Add Inception's scores to a row that has none, of the last checkpoint of its run."""
    row, checkpoints = json.loads(entry.row.read_text()), by_age(RUNS / entry.row.stem)
    if "inception" in row:  # of whatever number of samples, which the page names
        return
    if not checkpoints:
        raise FileNotFoundError(f"{entry.row.stem} has no checkpoint in {RUNS}: remove its row, and it is trained anew")
    row |= {"inception": in_inceptions_features(checkpoints[-1], images)}
    entry.row.write_text(json.dumps(row, indent=2) + "\n")


def alexnet_is_there() -> bool:
    """Tell whether LPIPS can be taken; nothing is fetched for it."""
    return any((weights_folder() / weights.file).is_file() for weights in (ALEXNET, ALEXNET_FEATURES))


def keep(folder: Path, row: Path, facts: dict) -> None:
    """Write the row of a run, and its sheets."""
    every = read_results(folder / "results.json")
    results = {result["set"]: result for result in every}  # the newest of each set
    samples = results.pop("samples")
    score = next(iter(samples["scores"]))
    course = {str(r["images_seen"]): r["scores"][score]["value"] for r in every if r["set"] == "samples"}
    facts |= {"course": course} if len(course) > 1 else {}
    row.parent.mkdir(parents=True, exist_ok=True)
    facts = facts | {"sheet": keep_sheet(folder, "samples", row.with_suffix(".png"))}
    if "reconstruction" in results:
        name = row.with_name(f"{row.stem}_reconstructions.png")
        facts |= {"reconstructions": keep_sheet(folder, "reconstructions", name)}
    sets = {name: {part: found[part] for part in ("scores", "passport")} for name, found in results.items()}
    row.write_text(json.dumps(facts | samples | ({"sets": sets} if sets else {}), indent=2) + "\n")


def keep_sheet(folder: Path, name: str, path: Path) -> str:
    """Copy the newest sheet of a run in few colours; return its name."""
    with Image.open(max((folder / "previews").glob(f"{name}_*.png"))) as picture:
        picture.quantize(256).save(path, optimize=True)
    return path.name


def first_stage(entry: Entry) -> Path:
    """Find the row of what a second stage begins with, trained for as many images; train it where there is none."""
    first = entry._replace(model=FIRST_STAGES[entry.model])
    if not (first.row.is_file() and list((RUNS / first.row.stem / "checkpoints").glob("images_*.ckpt"))):
        train(first)
    return first.row


def labelled(row: dict) -> str:
    """Name the model of a row, and in which way it was trained."""
    return f"{row['model']}, {row['variant']}" if "variant" in row else row["model"]


def grouped(rows: list[dict]) -> list[list[dict]]:
    """Put the runs of one model, trained in one way, together."""
    return [[row for row in rows if labelled(row) == name] for name in sorted({labelled(row) for row in rows})]


def meanings(rows: list[dict]) -> str:
    """Say what the variants of rows are."""
    found = {row["variant"] for row in rows if "variant" in row}
    return "".join(f" {name}: {variant.meaning}." for name, variant in VARIANTS.items() if name in found)


def table(rows: list[dict]) -> str:
    """One table per dataset and number of images; means and standard deviations over seeds."""
    parts = []
    for faces, images in sorted({(row["data"], row["images_seen"]) for row in rows}):
        chosen = [row for row in rows if (row["data"], row["images_seen"]) == (faces, images)]
        score = next(iter(chosen[0]["scores"]))
        split = chosen[0]["passport"]["reference"]
        made_on = ", ".join(sorted({row["hardware"] for row in chosen}))
        floors = {kind: found["floor"] for kind in (score, *BESIDE) if (found := scored(chosen[0], kind))}
        known = ", ".join(f"{kind} {floor:.3g}" for kind, floor in floors.items() if floor is not None)
        parts += [
            f"### {faces}, {images:,} images\n",
            f"`{score}` with its 95 % interval, against {split['images']:,} pictures of the {split['split']} split. As "
            f"many real pictures never trained on score (the floor): {known}. Made on {made_on}.{meanings(chosen)}"
            f"{of_inception(chosen)}\n",
            f"| {' | '.join(('model', f'`{score}`', *BESIDE, *FURTHER))} |",
            "|---" * (len(BESIDE) + len(FURTHER) + 2) + "|",
        ]
        for group in sorted(grouped(chosen), key=lambda group: mean(row["scores"][score]["value"] for row in group)):
            parts.append("| " + " | ".join(cells(group, score)) + " |")
        parts += ["", *courses(chosen, score)]
    return "\n".join(parts)


def of_inception(rows: list[dict]) -> str:
    """Say of how many samples the Fréchet Inception distance is, and what its floor is, where there is one."""
    found = next((row["inception"] for row in rows if "inception" in row), None)
    if found is None:
        return ""
    passport, floor = found["passport"], scored(found, "fid")["floor"]
    return (
        f" FID: of {passport['images']:,} samples against {passport['reference']['images']:,} pictures of the "
        f"{passport['reference']['split']} split, floor {floor:.3g}."
    )


def courses(rows: list[dict], score: str) -> list[str]:
    """One table of how the score went on, for the runs that were scored on their way."""
    scored_often = sorted((row for row in rows if "course" in row), key=lambda row: row["scores"][score]["value"])
    if not scored_often:
        return []
    places = sorted({int(images) for row in scored_often for images in row["course"]})
    lines = [f"| `{score}` after images | {' | '.join(f'{images:,}' for images in places)} |"]
    lines.append("|---" * (len(places) + 1) + "|")
    for row in scored_often:
        found = [row["course"].get(str(images)) for images in places]
        values = ["" if value is None else f"{value:.3g}" for value in found]
        lines.append(f"| {labelled(row)}, seed {row['seed']} | {' | '.join(values)} |")
    return [*lines, ""]


def reconstructions(rows: list[dict]) -> str:
    """One table per dataset and number of images, of the models that make something of given pictures."""
    parts = []
    encoding = [row for row in rows if row.get("sets", {}).get("reconstruction")]
    for faces, images in sorted({(row["data"], row["images_seen"]) for row in encoding}):
        chosen = [row for row in encoding if (row["data"], row["images_seen"]) == (faces, images)]
        groups = grouped(chosen)
        groups.sort(key=lambda group: -average(group, "reconstruction", "psnr"))
        shown = chosen[0]["sets"]["reconstruction"]["passport"]["reference"]
        parts += [
            f"### {faces}, {images:,} images: reconstructions\n",
            f"Of {shown['images']:,} pictures of the {shown['split']} split.\n",
            f"| model | {' | '.join(OF_PICTURES)} | seeds | sheet |",
            "|---" * (len(OF_PICTURES) + 3) + "|",
        ]
        for group in groups:
            found = [(average(group, of, kind), written) for of, kind, written in OF_PICTURES.values()]
            values = ["" if value is None else format(value, written) for value, written in found]
            sheet = f"[sheet](results/{group[0]['reconstructions']})"
            parts.append(f"| {' | '.join([labelled(group[0]), *values, str(len(group)), sheet])} |")
        parts.append("")
    return "\n".join(parts)


def average(group: list[dict], of: str, kind: str) -> float | None:
    """Take the mean of a score of one of the sets over runs; None where none has it."""
    found = [score["value"] for row in group if (score := scored(row.get("sets", {}).get(of, {"scores": {}}), kind))]
    return mean(found) if found else None


def scored(row: dict, kind: str) -> dict | None:
    """Find a score by its name, or by the kind that its name begins with."""
    return next((found for name, found in row["scores"].items() if name == kind or name.startswith(f"{kind}_")), None)


def cells(group: list[dict], score: str) -> list[str]:
    """One row: a model's runs over seeds."""
    values = [row["scores"][score]["value"] for row in group]
    low, high = group[0]["scores"][score]["interval"]
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else f" [{low:.3g}, {high:.3g}]"
    beside = [[found["value"] for row in group if (found := scored(row, kind))] for kind in BESIDE]
    fid = [scored(row["inception"], "fid")["value"] for row in group if "inception" in row]
    right = [found["value"] for row in group if (found := scored(row, "accuracy"))]
    before = [row["first_stage_seconds"] for row in group if "first_stage_seconds" in row]
    first = f"{mean(before):.0f} + " if before else ""
    return [
        labelled(group[0]),
        f"{mean(values):.3g}{spread}",
        *(f"{mean(found):.3f}" if found else "" for found in beside),
        f"{mean(fid):.3g}" if fid else "",
        f"{mean(right):.1%}" if right else "",
        f"{first}{mean(row['training']['seconds'] for row in group):.0f}",
        f"{mean(row['training']['images_per_second'] for row in group):.0f}",
        str(len(group)),
        f"[sheet](results/{group[0]['sheet']})",
    ]


if __name__ == "__main__":
    auto_cli(leaderboard)
