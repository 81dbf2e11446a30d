"""Kill runs of shipped models at random moments, and compare the weights they end with to an uninterrupted run's.

python -m experiments.kills.kill_test --kills 100

A run is started, killed with ``kill -9`` and started again with ``--resume auto``, until it has been killed as often as
asked or has reached its end; then another round begins. Results go to ``results.json`` and into ``README.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jsonargparse import auto_cli

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars import shipped
from tests.conf.faults import start, statuses, training_state, wait_until

HERE = Path(__file__).parent
MOMENTS = ("any", "checkpoint", "any", "evaluation")  # in turn; cases with few kills begin at different ones
IMAGES, BATCH = 4800, 32
SETUP = [
    "--data.resolution", "16", "--data.batch_size", str(BATCH),
    "--run.images", str(IMAGES), "--run.save_every", "320", "--run.validate_every", "1600",
    "--quality.images", "40", "--preview.every", "1600", "--trainer.devices",
]  # fmt: skip


class Case(NamedTuple):
    """A run that is killed.

    Args:
        model: Name of a shipped model.
        world: Number of processes.
        further: Arguments beside those of every run.
        first: Name of the model that is trained before, as the first stage of this one.
    """

    model: str
    world: int = 1
    further: tuple[str, ...] = ()
    first: str | None = None

    def arguments(self) -> list[str]:
        data = DATA.get(self.model, AVATARS)
        adjusted = ADJUSTED.get(self.model, ())
        return ["fit", "--model", self.model, "--data", *data, *SETUP, str(self.world), *adjusted, *self.further]


AVATARS = ("avatars32", "--data.dataset.count", "300")
PARTS = ("avatar_parts64", "--data.dataset.count", "300")
STYLES = ("avatar_styles64", "--data.dataset.styles", "{avataaars: 150, micah: 150}")
EXPRESSIONS = ("avatar_expressions64", "--data.dataset.count", "40", "--data.dataset.attributes", "[]")
DATA = {
    "pix2pix": PARTS, "pix2pixhd": PARTS, "spade": PARTS, "segmentation": PARTS, "cyclegan": STYLES, "cut": STYLES,
    "stargan": EXPRESSIONS,
}  # fmt: skip
ADJUSTED = {  # what recipes let happen after more images than these runs have, and what would take minutes
    "beta_vae": ("--model.kl_weight.init_args.last", "3200"),
    "dbn": ("--model.layer.init_args.values", "{0: 0, 1600: 1, 3200: 2}", "--model.sampling_steps", "10"),
    "pix2pixhd": (
        "--data.resolution",
        "32",
        "--model.generator.halvings",
        "2",
        "--model.scheduled",
        "{"
        + ", ".join(
            f"{player}.level: {{class_path: Steps, init_args: {{values: {{0: 0, 1600: 1, 3200: 2}}}}}}"
            for player in ("generator", "discriminator")
        )
        + "}",
    ),
    "spade": ("--data.resolution", "32"),
    "vqgan": ("--model.adversarial_weight.init_args.values", "{0: 0.0, 1600: 0.1}"),
    "vqgan_prior": ("--model.network.init_args.layers", "1", "--model.learning_rate.init_args.last", "4800"),
}
FIRST = {"vqgan_prior": "vqvae"}
CASES = {name: Case(name, first=FIRST.get(name)) for name in shipped.names("model")} | {
    "dcgan, 2 data workers": Case("dcgan", further=("--data.num_workers", "2")),
    "dcgan_r1, 2 processes": Case("dcgan_r1", world=2),
    "vqvae, 2 processes": Case("vqvae", world=2),
    "vqgan_prior, 2 processes": Case("vqgan_prior", world=2, first="vqvae"),
    "dbn, 2 processes": Case("dbn", world=2),
    "cyclegan, 2 processes": Case("cyclegan", world=2),
    "stargan, 2 processes": Case("stargan", world=2),
}


def kill_in_time(moment: str, after: int, seconds: float) -> None:
    """Let this process kill itself in the middle of a checkpoint or an evaluation.

    Args:
        moment: ``checkpoint``: when a file is written and not yet in place; ``evaluation``: while samples, or what is
            made of pictures, are scored.
        after: Checkpoints or evaluations that are left whole.
        seconds: Time into the evaluation.
    """
    from lightning_avatars import checkpoints
    from lightning_avatars.callbacks import evaluate, reconstruction

    left = [after]

    def deadly(whole: Any, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - of the function that it stands for
        if left[0] == 0:
            threading.Timer(seconds if moment == "evaluation" else 0, os.kill, (os.getpid(), signal.SIGKILL)).start()
            time.sleep(0 if moment == "evaluation" else 60)
        left[0] -= 1
        return whole(*arguments, **more)

    evaluations = ((evaluate, "score_samples"), (reconstruction, "score_sets"))
    for owner, name in ((checkpoints, "put_in_place"),) if moment == "checkpoint" else evaluations:
        setattr(owner, name, partial(deadly, getattr(owner, name)))


def tell_meeting() -> None:
    """Leave a file in the working folder when this process has met the others."""
    whole = dist.init_process_group

    def telling(*arguments: Any, **more: Any) -> None:  # noqa: ANN401 - of the function that it stands for
        whole(*arguments, **more)
        Path(f"met_{os.environ['RANK']}").touch()

    dist.init_process_group = telling


def fingerprint(value: object) -> str:
    """Hash all that a checkpoint holds for training, tensors by their bytes."""
    digest = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                digest.update(str(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def final(folder: Path) -> Path | None:
    """Find the last checkpoint of a run."""
    return next(folder.glob(f"runs/*/*/checkpoints/images_{IMAGES:09d}.ckpt"), None)


def uninterrupted(case: Case, folder: Path) -> tuple[str, float]:
    """Train without an interruption; return the fingerprint of the end and the seconds it took."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    ended, path = statuses(start(case.arguments(), folder, case.world)), final(folder)
    if any(ended) or path is None:
        raise RuntimeError(f"{case} ended with {ended}: {(folder / 'said_0.txt').read_text()[-2000:]}")
    return fingerprint(training_state(path)), time.monotonic() - began


def interrupted(case: Case, folder: Path, kills: int, seconds: float, draws: random.Random, turn: int) -> Counter[str]:
    """Train with as many kills as there is time for, then to the end; return the kills by their moments."""
    folder.mkdir(parents=True)
    done: Counter[str] = Counter()
    ended: list[int | None] = [None]
    while any(status != 0 for status in ended):
        moment = MOMENTS[(turn + done.total()) % len(MOMENTS)] if done.total() < kills else "never"
        if moment == "evaluation" and case.model in ("recognition", "segmentation"):
            moment = "checkpoint"  # they make no pictures
        prepare = tell_meeting if case.world > 1 else None
        if moment in ("checkpoint", "evaluation"):
            whole = draws.randint(0, 4) if moment == "checkpoint" else 0
            prepare = partial(kill_in_time, moment, whole, draws.uniform(0, 0.2))
        processes = start([*case.arguments(), "--resume", "auto"], folder, case.world, prepare)
        if moment == "any":
            met = [folder / f"met_{rank}" for rank in range(case.world)] if case.world > 1 else []
            wait_until(lambda met=met: all(map(Path.exists, met)), processes)
            for file in met:
                file.unlink()
            processes[0].join(draws.uniform(0, seconds))
            for process in draws.sample(processes, draws.randint(1, len(processes))):
                process.kill()
        ended = statuses(processes)
        if None in ended:
            raise RuntimeError(f"{case}: a process outlived the one that was killed; they ended with {ended}")
        if -signal.SIGKILL in ended:
            done[moment] += 1
        elif any(ended):
            raise RuntimeError(f"{case} ended with {ended}: {(folder / 'said_0.txt').read_text()[-2000:]}")
    return done


def try_case(case: Case, kills: int, work: Path, seed: int) -> dict[str, object]:
    """Kill a case's runs so many times; compare every end."""
    draws, began = random.Random(seed), time.monotonic()
    if case.first is not None:
        uninterrupted(Case(case.first), work / "first")
        case = case._replace(further=(*case.further, "--model.first_stage", str(final(work / "first"))))
    expected, seconds = uninterrupted(case, work / "whole")
    done: Counter[str] = Counter()
    equal = []
    while done.total() < kills:
        folder = work / f"round_{len(equal)}"
        done += interrupted(case, folder, kills - done.total(), seconds, draws, seed + done.total())
        equal.append(fingerprint(training_state(final(folder))) == expected)
    shutil.rmtree(work)
    return {
        "kills": done.total(),
        "moments": dict(sorted(done.items())),
        "runs": len(equal),
        "equal": sum(equal),
        "fingerprint": expected,
        "seconds": round(time.monotonic() - began, 1),
    }


def table(results: dict[str, Any]) -> str:
    """Lay the results out for the README."""
    lines = [
        "| run | kills | any moment | in a checkpoint | in an evaluation | runs | equal to the uninterrupted one |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in results["cases"].items():
        moments = " | ".join(str(row["moments"].get(moment, 0)) for moment in ("any", "checkpoint", "evaluation"))
        lines.append(f"| {name} | {row['kills']} | {moments} | {row['runs']} | {row['equal']} |")
    rows = results["cases"].values()
    kills, runs, equal = (sum(row[key] for row in rows) for key in ("kills", "runs", "equal"))
    return "\n".join([*lines, f"| **all** | **{kills}** | | | | **{runs}** | **{equal}** |"])


def kill_test(kills: int = 100, seed: int = 0, only: list[str] | None = None, output: Path = HERE) -> None:
    """Kill runs of shipped models and write what came of them.

    Args:
        kills: Kills in all, shared among the cases.
        seed: Seed of the moments.
        only: Names of the cases to try anew, beside what is known of the others; all by default.
        output: Folder of ``results.json`` and ``README.md``.
    """
    os.environ |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    cases = {name: case for name, case in CASES.items() if only is None or name in only}
    known = json.loads((output / "results.json").read_text()) if only and (output / "results.json").is_file() else {}
    results: dict[str, Any] = {"hardware": hardware("cpu"), "torch": torch.__version__, "cases": known.get("cases", {})}
    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        os.environ["LIGHTNING_AVATARS_CACHE"] = f"{work}/cache"
        for number, (name, case) in enumerate(cases.items()):
            share = kills * (number + 1) // len(cases) - kills * number // len(cases)
            results["cases"][name] = row = try_case(case, share, Path(work) / str(number), seed + number)
            print(f"{name}: {row}", flush=True)
            (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if (output / "README.md").is_file():
        fill(output / "README.md", "results", table(results))
    if any(row["equal"] < row["runs"] for row in results["cases"].values()):
        raise SystemExit("a run that was killed ended with other weights than the uninterrupted one")


if __name__ == "__main__":
    auto_cli(kill_test)
