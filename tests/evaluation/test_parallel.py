"""One, two and four processes find the same scores."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.reconstruction import ReconstructionQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.data.pictures import Pictures
from lightning_avatars.evaluation import samples
from lightning_avatars.evaluation.changes import score_changes
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.reconstructions import held_out, score_sets
from lightning_avatars.evaluation.samples import real_pictures, score_samples
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.strategies import PhaseDDP
from tests.conf.domains import Exposure, domain_data
from tests.conf.training import fit, game, weights
from tests.evaluation.arrays import Quadrants, Translator, noise, silent, tiny_data
from tests.evaluation.test_changes import Painter, Pixels

COUNT, BLOCK = 53, 8  # 7 blocks, the last one of 5
PLANS = {"blocks": (COUNT, BLOCK), "fewer_blocks_than_processes": (COUNT, 40)}
KINDS = ("fd", "kd", "precision", "recall", "density", "coverage", "class_score")


class Remaking(Adversarial):
    """A game that makes something of real pictures too."""

    evaluation_sets = Translator.evaluation_sets


def work(rank: int, world: int, folder: Path) -> None:
    """Score everything as one of several processes, and keep what is found."""
    os.environ |= {
        "LIGHTNING_AVATARS_CACHE": str(folder / "cache"), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    Pictures.block = samples.BLOCK = BLOCK
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {}
    data = tiny_data(200)
    pictures = real_pictures(data)
    module = game(conditional=True)
    module.label_names = data.label_names
    judge = Quadrants(knows=True)
    extractors = [load_extractor("avatarnet"), judge]
    for name, (count, block) in PLANS.items():
        result = score_samples(module, pictures, extractors, count, block=block, track=silent)
        found[name] = result.plain() | {"seconds": 0}
        judges = Judges([Quadrants()], [], Quadrants(name="faces"))
        for one in score_sets(Translator(noise(20)), pictures.held_out, "test", judges, block, silent):
            kept = {score: values.tolist() for score, values in one.values.items()}
            found[f"{name} {one.result.set}"] = one.result.plain() | {"seconds": 0, "values": kept}
        both = held_out(domain_data(), "test", 1000)
        for one in score_sets(Exposure(), both, "test", judges, block, silent, untranslated=True):
            kept = {score: values.tolist() for score, values in one.values.items()}
            found[f"{name} {one.result.set}"] = one.result.plain() | {"seconds": 0, "values": kept}
        changed = score_changes(Painter(), pictures.held_out, "test", [Pixels()], 30, block, silent)
        found[f"{name} changes"] = changed.plain() | {"seconds": 0}
        found[f"seen in {name}"] = judge.seen
        judge.seen = 0
    found["files"] = sorted(path.name for path in (folder / "cache/statistics").glob("*.safetensors"))
    if world == 2:
        found["fit"] = trained(rank, folder)
    (folder / f"{rank}.json").write_text(json.dumps(found, allow_nan=False))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def trained(rank: int, folder: Path, **options) -> dict[str, float]:
    """Train with scores on, and return what was logged and a hash of the weights."""
    module = remaking()
    callbacks = [SampleQuality(images=21, block=4), ReconstructionQuality(), Run(images=24, validate_every=8)]
    if rank >= 0:
        options = {"devices": 2, "strategy": PhaseDDP()}
    trainer = fit(module, folder / f"run{max(rank, 0)}", callbacks=callbacks, **options)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return found | {"weights": float(weights(module).detach().sum())}


def remaking() -> Remaking:
    module = game(normalized=True)
    return Remaking(
        module.generator, module.discriminator, module.objective, average_half_life=100,
        generator_optimizer=module.optimizer_factories["generator"],
        discriminator_optimizer=module.optimizer_factories["discriminator"],
    )  # fmt: skip


def ran(folder: Path, world: int) -> list[dict]:
    """Let several processes work; return what each of them found."""
    folder.mkdir(exist_ok=True)
    # Forked from a process that has only imported torch: its import takes longer than all that is tested.
    multiprocessing.set_forkserver_preload(["lightning_avatars.cli"])
    mp.start_processes(work, (world, folder), nprocs=world, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("1")
    kept, blocks = dict(os.environ), (Pictures.block, samples.BLOCK)
    work(0, 1, folder)
    os.environ.clear()
    os.environ.update(kept)
    Pictures.block, samples.BLOCK = blocks
    return json.loads((folder / "0.json").read_text())


def agree(found, expected, where=""):
    """Compare all numbers to 1e-6 of their size, and everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            agree(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            agree(one, other, f"{where}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-14), where
    else:
        assert found == expected, where


def test_every_score_is_there_to_be_compared(alone):
    for name in PLANS:
        scores = alone[name]["scores"]
        expected = {f"{kind}_{network}_53" for kind in KINDS for network in ("avatarnet", "quadrants")}
        assert scores.keys() == expected | {"copied_53", "accuracy_53"}
        assert all(score["value"] is not None for score in scores.values())
        assert all(score["floor"] is not None for score in scores.values() if score["extractor"] == "avatarnet")
        assert alone[name]["accuracy"].keys() == {"colour", "large"}
        assert {"l1", "mse", "psnr", "ssim", "identity_faces"} == alone[f"{name} reconstruction"]["values"].keys()
        assert len(alone[f"{name} upside_down"]["scores"]) == 6
        assert len(alone[f"{name} dark_to_bright_untranslated"]["scores"]) == 6
        assert 0.5 < alone[f"{name} changes"]["scores"]["changed_30"]["value"] < 1
        assert len(alone[f"{name} bright_to_dark_to_bright"]["scores"]) == 11
    assert 0 < alone["blocks"]["scores"]["accuracy_53"]["value"] < 1


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_find_what_one_finds(tmp_path, alone, world):
    ranks = ran(tmp_path / "world", world)
    seen = [[rank.pop(f"seen in {name}") for name in PLANS] for rank in ranks]
    logged = [rank.pop("fit", None) for rank in ranks]
    for rank in ranks[1:]:
        assert rank == ranks[0], "every number must be the same, in every bit, on all processes"
    expected = {name: value for name, value in alone.items() if not name.startswith("seen in")}
    agree(ranks[0], expected)
    assert ranks[0]["files"] == alone["files"], "the cache must not depend on the number of processes"

    # The first plan describes the real pictures, shared by all; the second one reads them and draws its own samples.
    everything, again = (sum(column) for column in zip(*seen, strict=True))
    assert again == COUNT and everything == alone["seen in blocks"]
    assert max(first for first, _ in seen) <= everything / world + 3 * BLOCK
    if world == 4:
        assert sorted(second for _, second in seen) == [0, 0, 13, 40]
    if world == 2:
        assert logged[0] == logged[1]
        agree_in_training(logged[0], trained(-1, tmp_path / "alone"))


def agree_in_training(found: dict[str, float], expected: dict[str, float]) -> None:
    """Compare runs, whose weights differ by rounding."""
    assert found.keys() == expected.keys() and len(found) > 20
    for name in ("val/fd_avatarnet_21", "val/fd_avatarnet_21_floor", "weights"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name
    for name in (name for name in found if "/reconstruction/" in name):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
