"""Compare our scores with those of other libraries on the same arrays, and write the tables.

python -m experiments.conformance.conformance <CelebA's zip> <folder of the weights>

Features are kept in a temporary folder, so that a run that was broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import lpips
import numpy as np
import PIL
import scipy
import torch
import torchmetrics
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image.fid import FrechetInceptionDistance

from experiments.conformance.distances import (
    FIDS,
    KIDS,
    PLAIN,
    Distance,
    exact_fid,
    fidelity_fid,
    our_fid,
    our_kid,
    our_pair_scores,
)
from experiments.conformance.networks import tools
from experiments.conformance.pictures import CHUNK, Features, kept, picture
from experiments.conformance.tables import tables
from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.sources import find
from lightning_avatars.images import to_float
from lightning_avatars.metrics.class_score import ClassScore
from lightning_avatars.metrics.extractors.inception import Inception
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.pairwise import ms_ssim, psnr, ssim

HERE = Path(__file__).parent
SIZES = [(64, 64), (89, 109), (256, 256), (32, 32), (299, 299), (300, 300), (512, 512)]  # width, height
MAIN = SIZES[:3]
EQUAL = 128  # images of each side whose features every tool's functions are given
TWINS = {"torchmetrics, antialias=False": "torch-fidelity", "clean-fid, legacy_pytorch": "pytorch-fid"}


def distributions(features: Features, counts: dict[str, tuple[int, int]]) -> list[dict]:
    """FID and KID by every tool at every size, each beside ours on the same images.

    The features are the tool's own. The FID is by torch-fidelity's function in its rows at the first three sizes, and
    by ``exact_fid`` in others: ``from_equal_features`` says what each tool's functions make of the same features.
    """
    rows = []
    for size in SIZES:
        place = 0 if size in MAIN else 1
        reference = {n: features("ours", size, n) for n in {count[place] for count in counts.values()}}
        ours = {n: (slow(features, "ours", size, n, our_fid), our_kid(*pair)) for n, pair in reference.items()}
        for tool, count in counts.items():
            number = count[place]
            pair = reference[number] if tool == PLAIN else features(tool, size, number)
            own = tool == "torch-fidelity" and size in MAIN
            fid = slow(features, tool, size, number, fidelity_fid) if own else exact_fid(*pair)
            rows.append({
                "size": f"{size[0]} x {size[1]}", "tool": tool, "images": number,
                "fid": fid, "our_fid": ours[number][0],
                "kid": KIDS[tool](*pair) if tool in KIDS else None, "our_kid": ours[number][1],
                "features": difference(pair, reference[number]),
            })  # fmt: skip
    return rows


def slow(features: Features, tool: str, size: tuple[int, int], count: int, fid: Distance) -> float:
    """Take a FID that takes long, once."""
    path = features.keep / f"fid_{tool}_{size[0]}x{size[1]}_{count}.pt"
    return float(kept(path, lambda: torch.tensor(fid(*features(tool, size, count)), dtype=torch.float64)))


def difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Norm of the difference of features, relative to the norm of the second ones."""
    x, y = torch.cat(a), torch.cat(b)
    return float((x - y).norm() / y.norm())


def from_equal_features(a: Tensor, b: Tensor, keep: Path) -> list[dict]:
    """FID and KID by every tool's own functions from the same features."""
    rows = []
    for tool, measure in FIDS.items():
        path = keep / f"equal_{tool}_{len(a)}.pt"
        fid = float(kept(path, lambda m=measure: torch.tensor(m(a, b), dtype=torch.float64)))
        rows.append({"tool": tool, "fid": fid, "kid": KIDS[tool](a, b) if tool in KIDS else None})
    return rows


def twins(features: Features) -> list[dict]:
    """Show that two tools prepare images alike and have one network, where enlarging and where reducing."""
    rows = []
    for (tool, twin), size in product(TWINS.items(), ((64, 64), (512, 512))):
        pairs = features(tool, size, CHUNK), features(twin, size, CHUNK)
        rows.append({"tool": tool, "twin": twin, "size": f"{size[0]} x {size[1]}", "features": difference(*pairs)})
    return rows


def documented(weights: Path, temporary: Path) -> dict[str, float]:
    """The example of torchmetrics' documentation: FID of 64 features of noise, 12.6388 there.

    The seed is the one that its tests of the documentation set (``src/conftest.py``). Building the network draws random
    numbers too, so it comes before the images as it does there.
    """
    torch.manual_seed(42)
    metric = FrechetInceptionDistance(64, feature_extractor_weights_path=str(temporary / "inception.pth"))
    a, b = (torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8) for low, high in ((0, 200), (100, 255)))
    ours, sides = Inception(weights), []
    for images, real in ((a, True), (b, False)):
        with torch.no_grad():
            stems = [ours.network.stem1(ours.prepare(part)).mean((2, 3)) for part in images.split(10)]
        sides.append(torch.cat(stems))
        for part in images.split(10):
            metric.update(part, real=real)
    return {"documented": 12.6388, "ours": our_fid(*sides), "torchmetrics": float(metric.compute())}


def neighbours(features: Features, count: int) -> list[dict]:
    """Precision and recall from the same features by torch-fidelity and by us."""
    rows = []
    for size in MAIN:
        a, b = features("ours", size, count)
        ours, theirs = our_pair_scores(a, b), prc_features_to_metric(b, a, verbose=False)
        for name in ("precision", "recall"):
            rows.append({"size": f"{size[0]} x {size[1]}", "score": name, "ours": ours[name], "theirs": theirs[name]})
    return rows


def inception_score() -> dict[str, dict[str, float]]:
    """Inception Score of 1,000 random answers over 1,008 classes, in one piece and in 10 splits."""
    logits = torch.randn(1000, 1008, generator=torch.Generator().manual_seed(0)) * 2
    metric = ClassScore([1008], 1000)
    metric.update([logits.double().softmax(1)], torch.arange(1000))
    whole, splits = (isc_features_to_metric(logits, n, shuffle=False) for n in (1, 10))
    mean, deviation = metric.splits()
    return {
        "all images": {"ours": float(metric.compute()[0]), "theirs": whole["inception_score_mean"]},
        "mean of 10 splits": {"ours": float(mean), "theirs": splits["inception_score_mean"]},
        "deviation of 10 splits": {"ours": float(deviation), "theirs": splits["inception_score_std"]},
    }


def pairwise(source: Path, weights: Path, count: int = 4) -> list[dict]:
    """PSNR, SSIM, MS-SSIM and LPIPS of pictures and blurred, grainy others."""
    rows = []
    networks = {name: lpips_of(name, weights) for name in ("alex", "vgg")}
    for size in SIZES:
        a, b = (torch.stack([picture(source, i, *size, other) for i in range(count)]) for other in (False, True))
        pairs: list[tuple[str, Tensor, dict[str, Tensor]]] = []
        options = {"data_range": 255.0, "reduction": "none"}
        for name, ours, theirs in (
            ("PSNR", psnr, partial(peak_signal_noise_ratio, dim=(1, 2, 3))),
            ("SSIM", ssim, structural_similarity_index_measure),
            ("MS-SSIM", ms_ssim, multiscale_structural_similarity_index_measure),
        ):
            if name != "MS-SSIM" or min(size) >= 176:
                kinds = {"float32": (a.float(), b.float()), "float64": (a.double(), b.double())}
                others = {f"torchmetrics, {kind}": theirs(*pair, **options) for kind, pair in kinds.items()}
                pairs.append((name, ours(a, b), others))
        for name, (ours, theirs) in networks.items() if max(size) <= 109 else ():
            with torch.no_grad():
                others = {tool: network(to_float(a), to_float(b)).flatten() for tool, network in theirs.items()}
            pairs.append((f"LPIPS, {name}", ours(a, b), others))
        for (name, ours, others), tool in ((pair, tool) for pair in pairs for tool in pair[2]):
            rows.append({
                "size": f"{size[0]} x {size[1]}", "score": name, "tool": tool, "ours": float(ours.mean()),
                "theirs": float(others[tool].double().mean()),
                "largest": float((ours - others[tool].double()).abs().max()),
            })  # fmt: skip
    return rows


def lpips_of(name: str, weights: Path) -> tuple[LPIPS, dict[str, nn.Module]]:
    """Build LPIPS by us, by torchmetrics and by its authors, on the same weights."""
    file = {"alex": "alexnet-features.safetensors", "vgg": "vgg16-features-fp16.safetensors"}[name]
    ours = LPIPS(name, weights / file)
    theirs = {
        "torchmetrics": _LPIPS(net=name, pnet_rand=True),
        "lpips": lpips.LPIPS(net=name, pnet_rand=True, verbose=False),
    }
    tensors = ours.features.state_dict()
    for network in theirs.values():
        network.net.load_state_dict({key: tensors[key.split(".", 1)[1]] for key in network.net.state_dict()})
    return ours, {tool: network.eval() for tool, network in theirs.items()}


def published(weights: Path, examples: Path | None) -> list[dict]:
    """LPIPS of the pictures of its authors' page, 0.722 and 0.138, where these are at hand."""
    if examples is None:
        return []
    ours = LPIPS("alex", weights / "alexnet-features.safetensors")
    reference, *others = (
        torch.from_numpy(np.array(Image.open(examples / f"ex_{name}.png").convert("RGB"))).permute(2, 0, 1)[None]
        for name in ("ref", "p0", "p1")
    )
    return [
        {"picture": name, "published": value, "ours": float(ours(reference, other))}
        for name, value, other in zip(("ex_p0.png", "ex_p1.png"), (0.722, 0.138), others, strict=True)
    ]


def conformance(
    pictures: Path,
    weights: Path,
    images: int = 256,
    few: int = 256,
    others: int = 256,
    examples: Path | None = None,
    keep: Path | None = None,
) -> None:
    """Measure everything and write ``results.json`` and the tables of ``README.md``.

    Args:
        pictures: CelebA's aligned pictures, a folder or a zip.
        weights: Folder of the weights of Inception, AlexNet and VGG16 as ``safetensors``.
        images: Pictures of each side at 64, 89 x 109 and 256 pixels, a multiple of 32.
        few: Pictures of each side at the other sizes, a multiple of 32.
        others: Pictures of each side at the first three sizes for the tools that are known to differ.
        examples: Folder of ``ex_ref.png``, ``ex_p0.png`` and ``ex_p1.png`` from the page of the authors of LPIPS.
        keep: Folder of what was computed, to be emptied when our networks change; by default a temporary one,
            named after the weights and the pictures.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)  # torchmetrics and clean-fid draw the order of the images of KID
    np.random.seed(0)  # which clean-fid draws from
    file = weights / "inception-2015-12-05-features.safetensors"
    source = hashlib.sha256(f"{file_hash(file)} {find(pictures).fingerprint()}".encode()).hexdigest()[:12]
    keep = keep or Path(tempfile.gettempdir()) / f"lightning_avatars_conformance_{source}"
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        features = Features(pictures, tools(file, temporary), keep)
        counts = {PLAIN: (images, few), "torch-fidelity": (images, few)}
        counts |= {tool: (others, few) for tool in ("torchmetrics", "pytorch-fid", "clean-fid")}
        results = {
            "versions": versions(),
            "hardware": hardware("cpu"),
            "images": {"main sizes": images, "other sizes": few, "differing tools at main sizes": others},
            "pictures": "side a is pictures 0 …, side b pictures 5000 …; grain is seeded by a picture's number",
            "distributions": distributions(features, counts),
            "equal_features": from_equal_features(*features("ours", MAIN[0], EQUAL), keep),
            "twins": twins(features),
            "documented": documented(file, temporary),
            "pairwise": pairwise(pictures, weights),
            "published_lpips": published(weights, examples),
            "neighbours": neighbours(features, images),
            "inception_score": inception_score(),
        }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for name, text in tables(results).items():
        fill(HERE / "README.md", name, text)


def versions() -> dict[str, str]:
    """Say what was compared."""
    modules = {"torch": torch, "torchmetrics": torchmetrics, "scipy": scipy, "numpy": np, "Pillow": PIL}
    found = {name: module.__version__ for name, module in modules.items()}
    named = {name: version(name) for name in ("torch-fidelity", "pytorch-fid", "clean-fid", "lpips")}
    return named | found


if __name__ == "__main__":
    auto_cli(conformance)
