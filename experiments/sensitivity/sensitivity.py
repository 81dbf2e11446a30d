"""Make held-out pictures worse step by step, score each step, and tell which metric sees what.

python -m experiments.sensitivity.sensitivity --celeba <folder> --inception <weights> --alexnet <weights>

What an extractor says of the pictures is kept in the cache folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.machine import hardware
from experiments.pages import fill
from experiments.sensitivity.distortions import DISTORTIONS, distort, levels, share
from experiments.sensitivity.tables import details, summary
from lightning_avatars.data.avatars import Avatars
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.celeba import CelebA
from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.data.store import Store
from lightning_avatars.evaluation.distribution import Distribution, Estimate
from lightning_avatars.evaluation.pairs import Pairs
from lightning_avatars.evaluation.passport import device_name, versions
from lightning_avatars.evaluation.real import BLOCK, Against, Real
from lightning_avatars.evaluation.statistics import cached
from lightning_avatars.evaluation.track import on_screen
from lightning_avatars.images import save_sheet
from lightning_avatars.metrics.extractors.base import Description, Extractor
from lightning_avatars.metrics.extractors.inception import Inception
from lightning_avatars.metrics.extractors.onnx_face import OnnxFace
from lightning_avatars.metrics.extractors.pixels import Pixels
from lightning_avatars.metrics.extractors.recognizer import Recognizer
from lightning_avatars.metrics.frechet import frechet_to
from lightning_avatars.metrics.intervals import block_counts, blocks_of, jackknife, mean_interval, without_each
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.neighbours import copied
from lightning_avatars.metrics.processes import shares
from lightning_avatars.objectives.recognition import correct
from lightning_avatars.seeding import derive

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE / "README.md"
CPU = torch.device("cpu")
OTHERS = 1000  # held-out pictures that copies are told from
BOX = (0.0864, 0.1362, 0.9078, 0.9576)  # as in configs/extractor/arcface.yaml
LOWER = {"fd", "kd", "fid", "kid", "mse", "lpips_alex", "lpips_vgg", "copied"}  # better; of all others, higher
Index = npt.NDArray[np.int64]


def sensitivity(
    celeba: Path | None = None,
    inception: Path | None = None,
    alexnet: Path | None = None,
    vgg: Path | None = None,
    arcface: Path | None = None,
    pairs_count: int = 96,
    count: int = 480,
    references: int = 2000,
    inception_count: int = 320,
    inception_references: int = 1000,
    seed: int = 0,
) -> None:
    """Score distorted held-out pictures, write ``results.json`` and the tables of the page.

    Args:
        celeba: Folder of CelebA in its own layout; without it, only avatars.
        inception: Weights of the Inception network; without them, rows in its features stay as they are.
        alexnet: Weights of AlexNet; without them there is no LPIPS by it.
        vgg: Weights of VGG16; without them there is no LPIPS by it.
        arcface: A face recogniser; without it the identities of photographs are not compared.
        pairs_count: Pictures that VGG16 and the face recogniser compare, in a table of their own.
        count: Pictures that are distorted and scored.
        references: Training pictures that they are compared with.
        inception_count: ``count`` in Inception's features.
        inception_references: ``references`` in Inception's features.
        seed: Of which pictures are taken, and of noise.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    perceptual = [LPIPS("alex", alexnet)] if alexnet else []
    datasets = {"avatars64": FaceData(Avatars(), 64)} | ({"celeba64": FaceData(CelebA(celeba), 64)} if celeba else {})
    chosen: list[tuple[Extractor, int, int]] = [(Recognizer("avatarnet"), count, references)]
    chosen += [(Inception(inception), inception_count, inception_references)] if inception else []
    for name, data in datasets.items():
        data.prepare_data()
        data.setup("test")
        faces = Faces(name, data.store, count, references, seed)
        if name == "avatars64":
            save_sheet(distorted_sheet(faces.pictures(faces.chosen[:4]), seed), 5, HERE / "avatars64.png")
        add(results, name, "pairs", pairs(faces, perceptual, seed), faces, {"lpips": bool(perceptual)})
        if vgg or arcface:
            few = Faces(name, data.store, pairs_count, references, seed)
            judge = OnnxFace(arcface, box=BOX) if arcface and name == "celeba64" else None
            found = pairs(few, [LPIPS("vgg", vgg)] if vgg else [], seed, judge)
            slow = {kind: row for kind, row in found.items() if kind.startswith(("lpips", "identity"))}
            add(results, name, "slow_pairs", slow, few, {"lpips_vgg": bool(vgg), "identity": judge is not None})
        add(results, name, "copies", copies(faces, seed), faces, {"held_out": OTHERS})
    for extractor, number, against in chosen:
        for name, data in datasets.items():
            faces = Faces(name, data.store, number, against, seed)
            add(results, name, extractor.name, scores(faces, extractor, seed), faces, {"weights": extractor.sha256})


class Faces:
    """Which pictures of a dataset are distorted, compared with, and taken in the place of others.

    Args:
        name: Of the dataset.
        store: Its pictures.
        count: Pictures that are scored.
        references: Training pictures.
        seed: Of the order in which pictures are taken.
    """

    def __init__(self, name: str, store: Store, count: int, references: int, seed: int) -> None:
        self.name, self.store, self.count, self.seed = name, store, count, seed
        draw = np.random.default_rng(seed)
        self.train = draw.permutation(store.split("train"))[:references]
        held_out = draw.permutation(np.concatenate([store.split("val"), store.split("test")]))
        self.others, pool = held_out[:OTHERS], held_out[OTHERS:]
        self.chosen = pool[:count]
        modes = self.modes(store.labels[pool])
        kinds, sizes = np.unique(modes, return_counts=True)
        self.kinds = kinds[np.argsort(-sizes, kind="stable")]  # the rarest are dropped first
        kept = {s: np.isin(modes, self.kinds[: max(1, round(len(kinds) * share(s)))]) for s in levels("modes")}
        self.kept = {level: float(mask.mean()) for level, mask in kept.items()}
        fewest = min(int(mask.sum()) for mask in kept.values())
        if fewest < count:
            raise ValueError(f"only {fewest} held-out pictures of {name} show the fewest modes: lower the count")
        self.dropped = {level: pool[mask][:count] for level, mask in kept.items()}

    def modes(self, labels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Tell the mode of each picture: hair of avatars; sex, smile and hair's colour of photographs."""
        names = self.store.label_names
        if "Male" not in names:
            return labels[:, [i for i, n in enumerate(names) if n.startswith("hair=")]].argmax(1)
        male, smile, *hair = (
            labels[:, names.index(n)] > 0 for n in ("Male", "Smiling", "Black_Hair", "Blond_Hair", "Brown_Hair")
        )
        return male * 8 + smile * 4 + np.where(np.any(hair, 0), np.argmax(hair, 0) + 1, 0)

    def pictures(self, index: Index) -> StorePictures:
        return StorePictures(self.store, index, self.name)

    def choices(self) -> Iterator[tuple[str, str, Index]]:
        """Yield a distortion that puts other pictures in the place of some, the level, and their places."""
        yield from (("modes", level, index) for level, index in self.dropped.items())
        for level in levels("duplicates"):
            yield "duplicates", level, np.resize(self.chosen[: self.count // int(level)], self.count)
        for level in levels("copier"):
            copies = round(self.count * share(level))
            yield "copier", level, np.concatenate([self.train[:copies], self.chosen[copies:]])


def describe(extractor: Extractor, pictures: StorePictures, name: str, level: str, seed: int) -> Description:
    """Describe distorted pictures, or read from the cache what was said of them."""
    none = level == levels(name)[0] or DISTORTIONS[name].apply is None
    done = "none" if none else f"{name} {level} {seed}"
    facts: dict[str, object] = {
        "what": "sensitivity", "distortion": done, "pictures": pictures.key,
        "extractor": extractor.name, "weights": extractor.sha256, "resize": extractor.resize,
    }  # fmt: skip

    def compute() -> dict[str, Tensor]:
        found = []
        for where in on_screen(list(shares(len(pictures), BLOCK)), f"{extractor.name}: {pictures.name}, {done}"):
            found.append(extractor(distort(name, level, pictures.read(where), derive(seed, name, where.start))))
        logits = [f.logits for f in found if f.logits is not None]
        return {"features": torch.cat([f.features for f in found])} | ({"logits": torch.cat(logits)} if logits else {})

    kept = cached(facts, CPU, compute)
    return Description(kept["features"], kept.get("logits"))


def described(faces: Faces, extractor: Extractor, seed: int) -> Iterator[tuple[str, str, Description]]:
    """Yield what an extractor says of the pictures under every distortion at every level."""
    for name in [n for n, d in DISTORTIONS.items() if d.apply is not None]:
        for level in levels(name):
            yield name, level, describe(extractor, faces.pictures(faces.chosen), name, level, seed)
    choices = list(faces.choices())
    places = np.unique(np.concatenate([index for _, _, index in choices]))  # each picture is described once
    features, logits = describe(extractor, faces.pictures(places), "modes", "100%", seed)
    for name, level, index in choices:
        at = torch.from_numpy(np.searchsorted(places, index))
        yield name, level, Description(features[at], None if logits is None else logits[at])


class Compared(Distribution):
    """A distribution whose Fréchet distance, slow in many dimensions, is not taken without each block too."""

    def frechet(self, real: Against) -> Estimate:
        value = frechet_to(real.root, real.mean, real.covariance, *self.moments.compute())
        return value, value[None]


Rows = dict[str, dict[str, dict[str, Any]]]  # metric -> distortion -> values, interval, verdict


def scores(faces: Faces, extractor: Extractor, seed: int) -> Rows:
    """Score sets of pictures in an extractor's features."""
    against = Real(extractor, faces.pictures(faces.train), on_screen).against
    intervals: dict[str, tuple[float, float]] = {}
    start: dict[str, float] = {}
    values: dict[str, dict[str, list[float]]] = {}
    for name, level, description in described(faces, extractor, seed):
        first = level == levels(name)[0]
        if not first or not start:
            seen = (Compared if start else Distribution)(extractor, faces.count, CPU)
            seen.update(torch.arange(faces.count), description)
            found = {called(extractor, k): estimate for k, estimate in seen.estimates(against).items()}
            if faces.store.label_names == extractor.label_names and DISTORTIONS[name].apply is not None:
                found["accuracy"] = obeyed(description, faces.store.labels[faces.chosen], extractor.label_names)
            del seen
            gc.collect()  # metrics hold themselves, and hundreds of megabytes
        if not start:
            intervals = {kind: jackknife(less, value) for kind, (value, less) in found.items()}
            start = {kind: float(value) for kind, (value, _) in found.items()}
        for kind, value in start.items():
            if kind == "accuracy" and DISTORTIONS[name].apply is None:
                continue  # of other pictures
            values.setdefault(kind, {}).setdefault(name, []).append(value if first else float(found[kind][0]))
    return rows(values, intervals)


def obeyed(description: Description, labels: npt.NDArray[np.float32], names: list[str]) -> Estimate:
    """Share of attributes that an extractor still names rightly."""
    hits = correct(description.logits, torch.from_numpy(labels), names)
    each = torch.stack([right.double() for right in hits.values()]).mean(0)
    counts = block_counts(len(each))
    sums = torch.zeros_like(counts).index_add_(0, blocks_of(len(each)), each)
    return each.mean(), without_each(sums) / without_each(counts)


def called(extractor: Extractor, kind: str) -> str:
    """Name a score without its extractor."""
    return extractor.score(kind).removesuffix(f"_{extractor.name}")


def copies(faces: Faces, seed: int) -> Rows:
    """Estimate the share of copies."""
    pixels, values, interval = Pixels(), dict[str, list[float]](), (0.0, 0.0)
    train, others = (describe(pixels, faces.pictures(i), "modes", "100%", seed)[0] for i in (faces.train, faces.others))
    for name, _, description in described(faces, pixels, seed):
        found = copied(description.features, train, others)
        interval = interval if values else jackknife(found.leave_one_out, found.value)
        values.setdefault(name, []).append(float(found.value))
    return rows({"copied": values}, {"copied": interval})


def pairs(faces: Faces, perceptual: list[LPIPS], seed: int, identity: Extractor | None = None) -> Rows:
    """Score distorted pictures against themselves as they were."""
    values: dict[str, dict[str, list[float]]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    pictures = faces.pictures(faces.chosen)
    for name in [n for n, d in DISTORTIONS.items() if d.apply is not None]:
        for level in levels(name):
            seen = Pairs(faces.count, 64, perceptual, identity, CPU)
            for where in shares(faces.count, BLOCK):
                images = torch.as_tensor(pictures.read(where))
                made = distort(name, level, images, derive(seed, name, where.start))
                seen.update(torch.arange(where.start, where.stop), made, images)
            for kind, found in seen.compute().items():
                intervals.setdefault(kind, mean_interval(found))
                values.setdefault(kind, {}).setdefault(name, []).append(float(found.mean()))
    return rows(values, intervals)


def rows(values: dict[str, dict[str, list[float]]], intervals: dict[str, tuple[float, float]]) -> Rows:
    """Put values together with what they tell."""
    return {
        kind: {
            name: {
                "values": found,
                "interval": list(intervals[kind]),
                "verdict": verdict(levels(name), found, intervals[kind], kind in LOWER),
            }
            for name, found in of_kind.items()
        }
        for kind, of_kind in values.items()
    }


def verdict(levels: list[str], values: list[float], interval: tuple[float, float], lower_is_better: bool) -> str:
    """Say whether a metric sees a distortion.

    ``blind``: no level leaves the 95 % interval of the undistorted pictures. ``wrong way``: the worst level looks
    better than that. Else ``seen from`` the first level from which on all are worse than the interval; with ``but for
    noise`` where a step goes the wrong way by at most half of the interval, and with ``not monotone`` where by more.
    """
    sign = 1 if lower_is_better else -1
    low, high = sorted(sign * end for end in interval)
    worse = [sign * value for value in values]
    if all(low <= value <= high for value in worse):
        return "blind"
    if worse[-1] < low:
        return "wrong way"
    back = max(before - after for before, after in pairwise(worse))
    broken = "" if back <= 0 else ", but for noise" if back <= (high - low) / 2 else ", not monotone"
    if worse[-1] <= high:
        return "not monotone, the worst not seen"
    since = next(i for i in range(len(worse)) if all(value > high for value in worse[i:]))
    return f"seen from {levels[since]}{broken}"


def distorted_sheet(pictures: StorePictures, seed: int) -> Tensor:
    """Show some pictures under every distortion, a row for each, with a column for each level."""
    images = torch.as_tensor(pictures.read(slice(0, 4)))
    cells = [
        distort(name, level, images[i : i + 1], seed)
        for i, name in enumerate(n for n, d in DISTORTIONS.items() if d.apply is not None)
        for level in levels(name)
    ]
    return torch.cat(cells)


def add(results: dict[str, Any], data: str, part: str, found: Rows, faces: Faces, facts: dict[str, Any]) -> None:
    """Write one part of the results, and the page."""
    passport = {
        "images": faces.count, "references": len(faces.train), "pictures": faces.pictures(faces.chosen).key,
        "reference": faces.pictures(faces.train).key, "seed": faces.seed, "modes": len(faces.kinds),
        "pictures_in_kept_modes": faces.kept, "device": device_name(CPU), "hardware": hardware(CPU),
        "versions": versions(), **facts,
    }  # fmt: skip
    results.setdefault(data, {})[part] = {"rows": found, "passport": passport}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    fill(PAGE, "summary", summary(results))
    fill(PAGE, "values", details(results))


if __name__ == "__main__":
    auto_cli(sensitivity)
