"""Train every model on every dataset for an equal number of images, score them, and write the table.

python experiments/leaderboard.py --images 100_000 --paths.mnist32 <folder of the idx files>

A row that is already in ``experiments/results`` at that number of images is not trained again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch
from jsonargparse import auto_cli
from PIL import Image

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results", HERE / "README.md"
MODELS = ["gan", "dcgan", "dcgan_r1", "lsgan", "wgan", "wgan_gp", "cgan", "r3gan"]


def leaderboard(
    models: list[str] = MODELS,
    data: list[str] = ["avatars32", "mnist32"],  # noqa: B006 - never changed
    seeds: list[int] = [0],  # noqa: B006 - never changed
    images: int = 100_000,
    paths: dict[str, str] | None = None,
) -> None:
    """Fill in the missing rows and write ``experiments/README.md`` anew.

    Args:
        models: Shipped model configurations.
        data: Shipped data configurations.
        seeds: Seeds of whole runs.
        images: Images that every run sees.
        paths: Data configuration -> folder of the pictures, where they are not drawn here.
    """
    for model, faces, seed in product(models, data, seeds):
        row = RESULTS / f"{model}_{faces}_{images // 1000}k_seed{seed}.json"
        if not row.is_file():
            train(model, faces, seed, images, (paths or {}).get(faces), row)
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*_seed*.json"))]
    write("leaderboard", table(rows))
    write("recognisers", "\n".join(recogniser(RESULTS / f"{name}.json") for name in ("avatarnet", "mnistnet")))


def write(part: str, text: str) -> None:
    """Replace one part of the page, between its two comments."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    page = TABLE.read_text()
    TABLE.write_text(page.split(begin)[0] + begin + "\n\n" + text + "\n" + end + page.split(end)[1])


def recogniser(path: Path) -> str:
    """Write the test accuracies of a recogniser, from the ``results.json`` of its run."""
    result = next(r for r in json.loads(path.read_text())["results"] if r["stage"] == "test")
    groups = ", ".join(f"{k.partition('/')[2]} {v:.1%}" for k, v in result["scores"].items() if "/" in k)
    mean_of_all = result["scores"]["accuracy"]
    return f"- `{path.stem}`, {result['images_seen']:,} images: {groups}; mean {mean_of_all:.1%}."


def train(model: str, faces: str, seed: int, images: int, path: str | None, row: Path) -> None:
    """Run one fit in a process of its own and keep its score and its sheet."""
    folder = Path("runs/leaderboard") / row.stem
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable, "-m", "lightning_avatars", "fit", "--model", model, "--data", faces,
        "--seed_everything", str(seed), "--run.images", str(images), "--run.validate_every", "0",
        "--preview.every", str(images), "--trainer.default_root_dir", str(folder),
    ]  # fmt: skip
    command += ["--data.dataset.path", path] if path else []
    subprocess.run(command, check=True, env=os.environ | {"WANDB_MODE": "disabled"})
    result = json.loads((folder / "results.json").read_text())["results"][-1]
    row.parent.mkdir(parents=True, exist_ok=True)
    sheet = next((folder / "previews").glob("samples_*.png"))
    with Image.open(sheet) as picture:
        picture.quantize(256).save(row.with_suffix(".png"), optimize=True)
    facts = {"model": model, "data": faces, "seed": seed, "hardware": hardware(), "sheet": row.with_suffix(".png").name}
    row.write_text(json.dumps(facts | result, indent=2) + "\n")


def hardware() -> str:
    """Name what the run was made on."""
    if torch.cuda.is_available():
        return f"1 {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"


def table(rows: list[dict]) -> str:
    """One table per dataset and number of images; means and standard deviations over seeds."""
    parts = []
    for faces, images in sorted({(row["data"], row["images_seen"]) for row in rows}):
        chosen = [row for row in rows if (row["data"], row["images_seen"]) == (faces, images)]
        score = next(iter(chosen[0]["floor"]))
        floor, split = chosen[0]["floor"][score], chosen[0]["passport"]["reference"]
        made_on = ", ".join(sorted({row["hardware"] for row in chosen}))
        parts += [
            f"### {faces}, {images:,} images\n",
            f"`{score}` against {split['images']:,} pictures of the {split['split']} split; real pictures never "
            f"trained on score {floor:.3g} (the floor). Made on {made_on}.\n",
            f"| model | `{score}` | attributes right | seconds | images/s | seeds | sheet |",
            "|---|---|---|---|---|---|---|",
        ]
        groups = [[row for row in chosen if row["model"] == name] for name in {row["model"] for row in chosen}]
        for group in sorted(groups, key=lambda group: mean(row["scores"][score] for row in group)):
            parts.append("| " + " | ".join(cells(group, score)) + " |")
        parts.append("")
    return "\n".join(parts)


def cells(group: list[dict], score: str) -> list[str]:
    """One row: a model's runs over seeds."""
    values = [row["scores"][score] for row in group]
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    right = [v for row in group for k, v in row["scores"].items() if k.startswith("accuracy")]
    return [
        group[0]["model"],
        f"{mean(values):.3g}{spread}",
        f"{mean(right):.1%}" if right else "",
        f"{mean(row['training']['seconds'] for row in group):.0f}",
        f"{mean(row['training']['images_per_second'] for row in group):.0f}",
        str(len(group)),
        f"[sheet](results/{group[0]['sheet']})",
    ]


if __name__ == "__main__":
    auto_cli(leaderboard)
