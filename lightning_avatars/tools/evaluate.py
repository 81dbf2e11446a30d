"""Scores of a checkpoint, or of a folder of pictures, with their passport."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.base import FaceData, Split
from lightning_avatars.data.pictures import FolderPictures, Pictures
from lightning_avatars.evaluation.changes import score_changes
from lightning_avatars.evaluation.extractors import load_extractor, load_extractors, load_perceptual
from lightning_avatars.evaluation.folder_pairs import score_folder_pairs
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.likelihoods import SAMPLES, knows_likelihoods, score_likelihood
from lightning_avatars.evaluation.likelihoods import shown as asked_about
from lightning_avatars.evaluation.page import write_page, write_translations
from lightning_avatars.evaluation.real import BLOCK
from lightning_avatars.evaluation.reconstructions import SetScores, makes_something, score_sets
from lightning_avatars.evaluation.reconstructions import held_out as held_out_pictures
from lightning_avatars.evaluation.samples import (
    RealPictures,
    default_count,
    draw_for,
    real_pictures,
    score_pictures,
    score_samples,
)
from lightning_avatars.evaluation.scores import FEWEST, SCHEMA, Result, check_enough, write_results
from lightning_avatars.evaluation.smoothness import check_smoothness, score_smoothness
from lightning_avatars.families.attribute_translation import AttributeTranslation
from lightning_avatars.families.base import GenerativeModule, LatentModule
from lightning_avatars.families.translation import Translation
from lightning_avatars.matching import data_of
from lightning_avatars.metrics.extractors.segmenter import load_segmenter
from lightning_avatars.metrics.lpips import Backbone
from lightning_avatars.tools.device import device_of

MOST_SHOWN = 2_000  # held-out pictures that a module makes something of


def evaluate(
    subject: Path,
    reference: Path | None = None,
    data: FaceData | None = None,
    extractors: str | list[str] | None = None,
    images: int | None = None,
    split: Split = "train",
    held_out: Path | None = None,
    pairs: bool = False,
    perceptual: Backbone | list[Backbone] | None = None,
    identity: str | None = None,
    segmenter: Path | None = None,
    truncation_psi: float = 1.0,
    likelihood_samples: int = SAMPLES,
    smoothness: int | None = None,
    block: int = BLOCK,
    output: Path | None = None,
    json: Path | None = None,
    device: str = "auto",
) -> None:
    """Score a checkpoint, or a folder of pictures: against a dataset, another folder, or itself.

    A checkpoint is scored against the data that it was trained on, or what ``-c`` names. A folder is scored against the
    dataset that ``-c`` names, against ``--reference``, or without either one half of it against the other. A checkpoint
    that translates is shown held-out pictures; these are scored as they are, too. Of a checkpoint that has a likelihood
    or a codebook, it is also scored how likely held-out pictures are and which words they use.

    Args:
        subject: A checkpoint, or a folder or zip of pictures of any size and kind.
        reference: A folder or zip of real pictures.
        data: The dataset to compare with.
        extractors: Names or paths, such as ``avatarnet,inception``; by default the recogniser that suits the dataset,
            and inception without a dataset.
        images: How many samples, or pictures of the folder at even distances; by default what suits the data, or all.
        split: Split of the dataset to compare with.
        held_out: With ``--reference``, a folder of real pictures that nothing was trained on: the floor and copies are
            told from it.
        pairs: Also compare pictures of the same name in the folder and ``--reference``.
        perceptual: LPIPS networks, for pairs, reconstructions and path lengths.
        identity: An extractor that recognises faces, such as arcface, for pairs and reconstructions.
        segmenter: A ``segmenter.safetensors``, for what is made of pictures with label maps.
        truncation_psi: Below 1, samples nearer to the mean one.
        likelihood_samples: Importance samples of each picture, for likelihoods.
        smoothness: Latents from which to measure how smoothly a generator draws: perceptual path lengths by
            ``--perceptual``, and how exactly the pictures of a StyleGAN3 follow moves and turns. Papers have vgg and
            100,000 paths.
        block: Images that a checkpoint makes at a time.
        output: Folder for a page of pictures to look at.
        json: File for scores and passports, which ``compare`` reads; ``-`` for the screen.
        device: ``cpu``, ``cuda``, … or ``auto`` for a GPU where there is one.

    Raises:
        ValueError: there are too few images, the subject can't be scored, or an option would be without effect.
    """
    subject = subject.expanduser()
    is_folder = subject.is_dir() or subject.suffix.lower() == ".zip"
    check(is_folder, reference, data, held_out, pairs, truncation_psi)
    check_judges(is_folder and not pairs, perceptual, identity, is_folder and data is None and split != "train")
    check_segmenter(segmenter, is_folder)
    check_places(output, json)
    if images is not None:
        check_enough(images, "are to be scored")
    where = device_of(device)
    module = None if is_folder else load_generator(subject, where)
    if module is not None and data is None and reference is None:
        data = data_of(module.config)
    if isinstance(module, Translation):
        check_translation(module, reference, data, split, truncation_psi)
    check_truncation(module, truncation_psi)
    check_samples(likelihood_samples, module, data)
    if segmenter is not None and data is None:
        raise ValueError(
            "--segmenter judges images of the label maps of a dataset, so that it can't go with --reference"
        )
    prepare(data)
    default = data.dataset.extractor if data is not None else "inception"
    judges = Judges(
        load_extractors(extractors or default, where),
        load_perceptual(perceptual),
        load_extractor(identity) if identity else None,
        load_segmenter(segmenter, data.mask_names) if segmenter is not None and data is not None else None,
    )
    judges.to(where)
    check_smoothness(module, smoothness, judges.perceptual)
    if module is not None and not module.samples and data is not None:
        found = of_translation(module, data, judges, images or MOST_SHOWN, block)
    else:
        folder, real = sides(subject if module is None else None, reference, data, split, held_out)
        if module is None:
            found = of_folder(folder, real, judges, images, pairs)
        else:
            count = images or default_count(real)
            found = of_generator(module, data, real, judges, count, truncation_psi, likelihood_samples, block)
            found.results.extend(smooth(module, judges, smoothness, block))

    console = Console(stderr=str(json) == "-")
    for result in found.results:
        console.print(table(result))
    if json is not None:
        hand_over(found.results, json, None if module is None else module.images_seen)
    if output is not None:
        console.print(f"A page of pictures: {found.page(output)}", soft_wrap=True, markup=False)


class Found(NamedTuple):
    """What was found of a subject.

    Args:
        results: Scores of each set of images.
        page: Writes a page of pictures into a folder, and returns where it lies.
    """

    results: list[Result]
    page: Callable[[Path], Path]


def of_translation(module: GenerativeModule, data: FaceData, judges: Judges, images: int, block: int) -> Found:
    """Score what a module makes of held-out pictures, and those as they are."""
    shown = held_out_pictures(data, "test", images)
    sets = score_sets(module, shown, "test", judges, block, untranslated=True)
    results = [one.result for one in sets]
    if isinstance(module, AttributeTranslation):
        changes = score_changes(module, shown, "test", judges.extractors, block=block)
        results += [changes] if changes is not None else []
    return Found(results, lambda output: write_translations(output, module, shown, sets))


def of_folder(pictures: FolderPictures, real: RealPictures, judges: Judges, images: int | None, pairs: bool) -> Found:
    """Score the pictures of a folder, and those that have a pair."""
    pictures = some(pictures, len(pictures) if images is None else images)
    say_lossy(pictures, real.reference)
    sets = [score_folder_pairs(pictures, real.reference, judges)] if pairs else []
    results = [score_pictures(pictures, real, judges.extractors), *(one.result for one in sets)]
    return Found(results, lambda output: write_page(output, pictures, real, None, sets))


def of_generator(
    module: GenerativeModule,
    data: FaceData | None,
    real: RealPictures,
    judges: Judges,
    images: int,
    truncation_psi: float,
    likelihood_samples: int,
    block: int,
) -> Found:
    """Score samples, and where there is data what a module makes of held-out pictures and how likely it finds them."""
    sets: list[SetScores] = []
    likely: list[Result] = []
    if data is not None:
        sets, likely = score_held_out(module, data, judges, likelihood_samples, block)
    result = score_samples(module, real, judges.extractors, images, truncation_psi, block)
    samples = draw_for(module, real, images, truncation_psi)
    results = [result, *(one.result for one in sets), *likely]
    return Found(results, lambda output: write_page(output, samples, real, module, sets))


def smooth(module: GenerativeModule, judges: Judges, count: int | None, block: int) -> list[Result]:
    """Measure how smoothly a generator draws, where that is asked for."""
    if count is None or not isinstance(module, LatentModule):
        return []
    return [score_smoothness(module, judges.perceptual, count, block)]


def prepare(data: FaceData | None) -> None:
    """Prepare a dataset's pictures, where one is named."""
    if data is not None:
        data.prepare_data()
        data.setup("test")


def check_translation(
    module: Translation, reference: Path | None, data: FaceData | None, split: Split, truncation_psi: float
) -> None:
    """Raise where a module that translates can't be scored so."""
    if reference is not None or data is None:
        raise ValueError("a model that translates is shown the held-out pictures of a dataset: name it by -c")
    if split != "train" or truncation_psi != 1:
        raise ValueError("--split and --truncation_psi are for models that draw samples, and this one translates")
    module.check_alike(data)


def check_truncation(module: GenerativeModule | None, truncation_psi: float) -> None:
    """Draw one sample, where truncation is asked for: a network without it, or a ψ out of range, raises here."""
    if module is not None and truncation_psi != 1:
        module.sample(torch.arange(1), truncation_psi=truncation_psi)


def score_held_out(
    module: GenerativeModule, data: FaceData, judges: Judges, samples: int, block: int
) -> tuple[list[SetScores], list[Result]]:
    """Score what a module makes of held-out pictures, and how likely they are to it, where it knows that."""
    sets = []
    if makes_something(module):
        sets = score_sets(module, held_out_pictures(data, "test", MOST_SHOWN), "test", judges, block)
    if not knows_likelihoods(module):
        return sets, []
    border = data.dataset.border(data.resolution)
    found = score_likelihood(module, asked_about(data, "test"), "test", samples, border, block)
    return sets, [found] if found is not None else []


def hand_over(results: list[Result], path: Path, images_seen: int | None) -> None:
    """Write scores and passports for ``compare``: to a file, or to the screen for ``-``."""
    facts = {"stage": "evaluate", "images_seen": images_seen, "training": None}
    entries = [facts | one.plain() for one in results]
    if str(path) == "-":
        print(json_format.dumps({"schema": SCHEMA, "results": entries}, indent=2, allow_nan=False))
    else:
        write_results(path, entries)


def check(
    is_folder: bool,
    reference: Path | None,
    data: FaceData | None,
    held_out: Path | None,
    pairs: bool,
    truncation_psi: float,
) -> None:
    """Raise where an option would be without effect."""
    if is_folder and reference is not None and data is not None:
        raise ValueError("a folder is compared with --reference or with the data that -c names: give one of them")
    if held_out is not None and reference is None:
        raise ValueError("--held_out goes with --reference; a dataset has held-out pictures of its own")
    if pairs and not (is_folder and reference is not None):
        raise ValueError("--pairs compares a folder's pictures with those of the same name in --reference: give both")
    if is_folder and truncation_psi != 1:
        raise ValueError("--truncation_psi is for a checkpoint; the pictures of a folder are as they are")


def check_judges(unpaired: bool, perceptual: object, identity: object, lost_split: bool) -> None:
    """Raise where networks would have nothing to judge, or a split nothing to be of."""
    if unpaired and (perceptual or identity):
        raise ValueError("--perceptual and --identity judge pairs: give --pairs true and --reference too")
    if lost_split:
        raise ValueError("--split is of the data that -c names: give it too")


def check_segmenter(segmenter: Path | None, is_folder: bool) -> None:
    """Raise where a segmenter would have nothing to judge."""
    if is_folder and segmenter is not None:
        raise ValueError("--segmenter judges what a checkpoint makes of pictures with label maps; a folder has none")


def check_samples(samples: int, module: GenerativeModule | None, data: FaceData | None) -> None:
    """Raise where likelihoods can't have so many importance samples, or there are none to have them."""
    if samples < 1:
        raise ValueError(f"--likelihood_samples must be at least 1, got {samples}")
    if samples != SAMPLES and (module is None or data is None or not knows_likelihoods(module)):
        raise ValueError(
            "--likelihood_samples is for a checkpoint that knows likelihoods, such as one of vae, and a dataset whose "
            "held-out pictures it is asked about: leave it out"
        )


def check_places(output: Path | None, json: Path | None) -> None:
    """Raise before the work where its results could not be written."""
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder for the page")
    if json is not None and json.is_dir():
        raise ValueError(f"--json {json} is a folder; give a file, or - for the screen")


def some(pictures: FolderPictures, count: int) -> FolderPictures:
    """Choose some pictures in an order of chance, as those side by side are often alike."""
    if count > len(pictures):
        raise ValueError(f"{pictures.path} has {len(pictures)} pictures to score, --images asks for {count}")
    return pictures.take(np.random.default_rng(0).permutation(len(pictures))[:count])


def say_lossy(pictures: FolderPictures, reference: Pictures) -> None:
    """Warn where only one side has JPEGs."""
    if isinstance(reference, FolderPictures) and pictures.lossy != reference.lossy:
        lossy, other = (pictures, reference) if pictures.lossy else (reference, pictures)
        print(
            f"warning: {lossy.path} has JPEGs, {other.path} has none: scores will also tell JPEG's artefacts. Save "
            "both the same way",
            file=sys.stderr,
        )


def load_generator(path: Path, device: torch.device) -> GenerativeModule:
    """Rebuild a checkpoint's module; raise where it makes no pictures."""
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint, folder or zip at {path} (looked from {Path.cwd()})")
    module = load_module(path, device)
    if not isinstance(module, GenerativeModule):
        raise ValueError(f"{path} holds a {type(module).__name__}, which makes no pictures: use `test` for it")
    return module


def sides(
    subject: Path | None, reference: Path | None, data: FaceData | None, split: Split, held_out: Path | None
) -> tuple[FolderPictures | None, RealPictures]:
    """Find the folder that is scored, if it is one, and what it is compared with."""
    folder = None if subject is None else FolderPictures(subject)
    apart = None if held_out is None else FolderPictures(held_out)
    if reference is not None:
        real = FolderPictures(reference)
        return folder, RealPictures(real, None, real if apart is not None else None, apart)
    if data is not None:
        return folder, real_pictures(data, split)
    if len(folder) < 2 * FEWEST:
        raise ValueError(
            f"{folder.path} has {len(folder)} pictures, and to score one half of them against the other takes at least "
            f"{2 * FEWEST}: give more, or something to compare with, by --reference or -c"
        )
    order = np.random.default_rng(0).permutation(len(folder))
    halves = order[: len(folder) // 2], order[len(folder) // 2 :]
    return folder.take(halves[0]), RealPictures(folder.take(halves[1]), "the other half")


def table(result: Result) -> Table:
    """Lay out the scores of one set of images."""
    reference, title = result.passport["reference"], f"{result.set}: {result.passport['images']}"
    if reference is not None:
        title += f" against {reference['images']} of {reference['name']}"
        title += f", {reference['split']}" if reference["split"] else ""
    judged = Table("score", "value", "95 % interval", "floor", title=escape(title))
    for name, score in result.scores.items():
        interval = "" if score.interval is None else f"{score.interval[0]:.4g} … {score.interval[1]:.4g}"
        judged.add_row(name, f"{score.value:.4g}", interval, "" if score.floor is None else f"{score.floor:.4g}")
    for group, share in result.accuracy.items():
        judged.add_row(f"accuracy of {escape(group)}", f"{share:.1%}", "", "")
    return judged
