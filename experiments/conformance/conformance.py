"""Compare our scores with those of other libraries on the same arrays, and write the tables.

python -m experiments.conformance.conformance <CelebA's zip> <folder of the weights>

Features are kept in a temporary folder, so that a run that was broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import types
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from io import BytesIO
from itertools import product
from pathlib import Path

import cleanfid
import cleanfid.fid
import cleanfid.inception_pytorch
import lpips
import numpy as np
import PIL
import pytorch_fid.fid_score
import pytorch_fid.inception
import scipy
import torch
import torchmetrics
from jsonargparse import auto_cli
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from experiments.machine import hardware
from experiments.pages import fill
from lightning_avatars.data.cache import file_hash
from lightning_avatars.data.sources import Source, find
from lightning_avatars.images import to_float, to_picture
from lightning_avatars.metrics.class_score import ClassScore
from lightning_avatars.metrics.extractors.inception import Inception
from lightning_avatars.metrics.frechet import Moments, frechet_distance
from lightning_avatars.metrics.kernels import Polynomial, mmd
from lightning_avatars.metrics.lpips import LPIPS
from lightning_avatars.metrics.neighbours import inner, outer, precision_recall_density_coverage
from lightning_avatars.metrics.pairwise import ms_ssim, psnr, ssim

HERE = Path(__file__).parent
SIZES = [(64, 64), (89, 109), (256, 256), (32, 32), (299, 299), (300, 300), (512, 512)]  # width, height
MAIN = SIZES[:3]
OTHER_SIDE = 5000  # number of the first picture of the second side
CHUNK = 32  # images whose features are kept in one file
EQUAL = 128  # images of each side whose features every tool's functions are given
PLAIN = "plain formulas"
Describe = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], float]


def picture(source: Path, number: int, width: int, height: int, other: bool) -> Tensor:
    """Read a picture, resize it and add grain, 3 H W; those of the other side are blurred and have more grain."""
    with Image.open(BytesIO(read(source, number))) as file:
        image = file.convert("RGB")
    if width == height:
        side, top = min(image.size), (image.height - min(image.size)) // 2
        image = image.crop((0, top, side, top + side))
    image = image.filter(ImageFilter.GaussianBlur(0.7)) if other else image
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = np.random.default_rng(number).normal(0, 8 if other else 3, pixels.shape)
    return torch.from_numpy(np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8)).permute(2, 0, 1)


def read(source: Path, number: int) -> bytes:
    """Read the file of a picture."""
    place, names = opened(source)
    return place.read(names[number])


@cache
def opened(source: Path) -> tuple[Source, list[str]]:
    """Open a folder or a zip and list its pictures."""
    place = find(source)
    return place, place.names()


def kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Read what was computed before, or compute it."""
    if not path.is_file():
        with torch.no_grad():
            torch.save(make().clone(), path)
    return torch.load(path)


class Features:
    """Features of both sides by each tool, kept in chunks.

    Args:
        source: Folder or zip of pictures.
        describe: The tools.
        keep: Folder of what was computed.
    """

    def __init__(self, source: Path, describe: dict[str, Describe], keep: Path) -> None:
        self.source, self.describe, self.keep = source, describe, keep

    def images(self, size: tuple[int, int], other: bool, numbers: range) -> Tensor:
        return torch.stack([picture(self.source, i + OTHER_SIDE * other, *size, other) for i in numbers])

    def __call__(self, tool: str, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        """Describe as many images of each side."""
        sides = [], []
        for other, start in product((False, True), range(0, count, CHUNK)):
            name = f"{tool}_{size[0]}x{size[1]}_{'b' if other else 'a'}".replace(", ", "_")
            images = partial(self.images, size, other, range(start, start + CHUNK))
            sides[other].append(
                kept(self.keep / f"{name}_{start}.pt", lambda images=images: self.describe[tool](images()))
            )
        a, b = (torch.cat(side)[:count].float() for side in sides)
        return a, b


def tools(weights: Path, temporary: Path) -> dict[str, Describe]:
    """Build each tool's way from bytes to features, on the same weights.

    Networks are laid out channels last, which is faster here and changes features by 1e-6 at most.
    """
    tensors = load_file(weights)
    tensors |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}  # neither FID nor KID reads them
    path = temporary / "inception.pth"
    torch.save(tensors, path)
    for module in (pytorch_fid.inception, cleanfid.inception_pytorch):  # they fetch the file they were written for
        module.load_state_dict_from_url = lambda *_, **__: tensors
    for module in (pytorch_fid.fid_score, cleanfid.fid):  # scipy 1.18 drops the argument `disp`, which they give
        module.linalg = types.SimpleNamespace(sqrtm=lambda a, disp=True: (scipy.linalg.sqrtm(a), None))
    ours = Inception(weights)
    fidelity = fast(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path)))
    smooth, plain = (
        fast(FrechetInceptionDistance(feature_extractor_weights_path=str(path), antialias=antialias).inception)
        for antialias in (True, False)
    )
    seitzer = fast(pytorch_fid.inception.InceptionV3([3]))
    copy = fast(cleanfid.inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False))

    def clean(network: nn.Module, mode: str, images: Tensor) -> Tensor:
        files = [str(file) for file in written(images, temporary)]
        found = cleanfid.fid.get_files_features(
            files, network, num_workers=0, batch_size=CHUNK, device=torch.device("cpu"), mode=mode, verbose=False
        )
        return torch.from_numpy(found)

    def files(images: Tensor) -> Tensor:
        found = pytorch_fid.fid_score.get_activations(written(images, temporary), seitzer, CHUNK, num_workers=0)
        return torch.from_numpy(found)

    return {
        "ours": lambda images: ours(images).features,
        "torch-fidelity": lambda images: fidelity(images)[0],
        "torchmetrics": smooth,
        "pytorch-fid": files,
        "clean-fid": partial(clean, lambda x: ours.network((x - 128) / 128), "clean"),
        "torchmetrics, antialias=False": plain,
        "clean-fid, legacy_pytorch": partial(clean, lambda x: copy(x / 255)[0].flatten(1), "legacy_pytorch"),
    }


def fast(network: nn.Module) -> nn.Module:
    """Freeze a network and lay it out channels last."""
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def written(images: Tensor, folder: Path) -> list[Path]:
    """Write images as PNG files, for the tools that read nothing else."""
    paths = [folder / f"{number:05d}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        to_picture(image).save(path, compress_level=1)
    return paths


def our_fid(a: Tensor, b: Tensor) -> float:
    """FID as we report it, from sums in float64."""
    moments = Moments(a.shape[1]), Moments(a.shape[1])
    for sums, features in zip(moments, (a, b), strict=True):
        sums.update(features)
    return float(frechet_distance(*moments[0].compute(), *moments[1].compute()))


def our_pair_scores(a: Tensor, b: Tensor) -> dict[str, float]:
    """KID, precision and recall of the second set against the first."""
    among, within = inner(b, Polynomial()), inner(a, Polynomial())
    between = outer(b, a, among, within, Polynomial())
    kid, _ = mmd(among.kernel, between.kernel, within.kernel.sum(), between.counts, len(a))
    shares = precision_recall_density_coverage(between)
    return {"kid": float(kid)} | {name: float(shares[name][0]) for name in ("precision", "recall")}


def our_kid(a: Tensor, b: Tensor) -> float:
    """KID as we report it."""
    return our_pair_scores(a, b)["kid"]


def exact_fid(a: Tensor, b: Tensor) -> float:
    """Fréchet distance without any 2048 x 2048 matrix, in float64.

    ``tr sqrt(A B)`` is the sum of the singular values of ``X Y^T``, where ``A = X^T X`` and ``B = Y^T Y``.
    """
    means = a.double().mean(0), b.double().mean(0)
    x, y = ((side.double() - mean) / (len(side) - 1) ** 0.5 for side, mean in zip((a, b), means, strict=True))
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return float((means[0] - means[1]).square().sum() + x.square().sum() + y.square().sum() - 2 * cross)


def exact_kid(a: Tensor, b: Tensor) -> float:
    """KID by its definition, in float64."""
    x, y, count = a.double(), b.double(), len(a)
    xx, yy, xy = ((u @ v.T / u.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y)))
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return float(within / (count * (count - 1)) - 2 * xy.mean())


def fidelity_fid(a: Tensor, b: Tensor) -> float:
    """FID by the functions of torch-fidelity."""
    statistics = fid_features_to_statistics(a), fid_features_to_statistics(b)
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def fidelity_kid(a: Tensor, b: Tensor) -> float:
    """KID by the functions of torch-fidelity."""
    found = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=len(a), verbose=False)
    return found["kernel_inception_distance_mean"]


def torchmetrics_fid(a: Tensor, b: Tensor) -> float:
    """FID by the functions of torchmetrics."""
    metric = FrechetInceptionDistance(Given(a.shape[1]))
    metric.update(a, real=True)
    metric.update(b, real=False)
    return float(metric.compute())


def torchmetrics_kid(a: Tensor, b: Tensor) -> float:
    """KID by the functions of torchmetrics."""
    # 1.9.0 gives this class no argument for the weights' path and would fetch them
    metric = KernelInceptionDistance(Given(a.shape[1]), subsets=1, subset_size=len(a))
    metric.update(a, real=True)
    metric.update(b, real=False)
    return float(metric.compute()[0])


class Given(nn.Identity):
    """Stands for a network where features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def seitzer_fid(a: Tensor, b: Tensor) -> float:
    """FID by the functions of pytorch-fid."""
    first, second = a.double().numpy(), b.double().numpy()  # it keeps features in float64
    statistics = [f(x) for x in (first, second) for f in (partial(np.mean, axis=0), partial(np.cov, rowvar=False))]
    return float(pytorch_fid.fid_score.calculate_frechet_distance(*statistics))


def clean_fid(a: Tensor, b: Tensor) -> float:
    """FID by the functions of clean-fid."""
    return float(cleanfid.fid.fid_from_feats(a.numpy(), b.numpy()))


def clean_kid(a: Tensor, b: Tensor) -> float:
    """KID by the functions of clean-fid."""
    return cleanfid.fid.kernel_distance(a.numpy(), b.numpy(), num_subsets=1, max_subset_size=len(a))


FIDS = {
    "ours": our_fid, "torch-fidelity": fidelity_fid, "torchmetrics": torchmetrics_fid, "pytorch-fid": seitzer_fid,
    "clean-fid": clean_fid, PLAIN: exact_fid,
}  # fmt: skip
KIDS = {
    "ours": our_kid, "torch-fidelity": fidelity_kid, "torchmetrics": torchmetrics_kid, "clean-fid": clean_kid,
    PLAIN: exact_kid,
}  # fmt: skip
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


def width(row: dict) -> int:
    """Read the width of the images of a row."""
    return int(row["size"].split(" ")[0])


def why(row: dict) -> str:
    """Say what a tool does otherwise at a size."""
    resize = {
        "torchmetrics": "half-pixel centres" + (", antialiased" if width(row) > 299 else ""),
        "pytorch-fid": "half-pixel centres",
        "clean-fid": "bicubic, half-pixel centres" + (", antialiased" if width(row) > 299 else ""),
    }
    if row["tool"] in (PLAIN, "torch-fidelity"):
        return {PLAIN: "our features", "torch-fidelity": "order of float32 sums"}[row["tool"]]
    reasons = [resize[row["tool"]]] if width(row) != 299 else []
    reasons += ["255 becomes 1, not 127/128"] if row["tool"] == "pytorch-fid" else []
    return "; ".join(reasons) or "nothing to resize"


def relative(value: float | None, ours: float) -> str:
    """Show how much more a value is than ours."""
    return "" if value is None else f"{value / ours - 1:+.1e}"


def shown(value: float | None) -> str:
    """Show a value, or that the tool has none."""
    return "none" if value is None else f"{value:.6g}"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Make a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(results: dict) -> dict[str, str]:
    """Write every part of the page."""
    whole, equal = results["distributions"], results["equal_features"]
    return {
        "distributions": grid(
            ["size", "tool", "N", "FID", "ours", "relative", "KID", "ours", "relative", "features", "why"],
            [[
                r["size"], r["tool"], str(r["images"]), shown(r["fid"]), shown(r["our_fid"]),
                relative(r["fid"], r["our_fid"]), shown(r["kid"]), shown(r["our_kid"]),
                relative(r["kid"], r["our_kid"]), f"{r['features']:.1e}", why(r),
            ] for r in sorted(whole, key=width)],
        ),
        "equal features": grid(
            ["functions of", "FID", "relative", "KID", "relative"],
            [[
                r["tool"], f"{r['fid']:.9g}", relative(r["fid"], equal[-1]["fid"]), shown(r["kid"]),
                relative(r["kid"], equal[-1]["kid"]),
            ] for r in equal],
        ),
        "twins": grid(
            ["tool", "is", "size", "features differ by"],
            [[r["tool"], r["twin"], r["size"], f"{r['features']:.1e}"] for r in results["twins"]],
        ),
        "documented": grid(["", "FID(64)"], [[k, f"{v:.4f}"] for k, v in results["documented"].items()]),
        "pairwise": grid(
            ["score", "size", "tool", "its mean", "our mean", "largest difference of a pair"],
            [[
                r["score"], r["size"], r["tool"], f"{r['theirs']:.7g}", f"{r['ours']:.7g}", f"{r['largest']:.1e}"
            ] for r in sorted(results["pairwise"], key=lambda row: (row["score"], width(row)))],
        ),
        "published": grid(
            ["picture", "published", "ours"],
            [[r["picture"], f"{r['published']:.3f}", f"{r['ours']:.4f}"] for r in results["published_lpips"]],
        ) if results["published_lpips"] else "Not reproduced in this run: the three pictures were not at hand.",
        "neighbours": grid(
            ["score", "size", "torch-fidelity", "ours"],
            [[r["score"], r["size"], shown(r["theirs"]), shown(r["ours"])] for r in results["neighbours"]],
        ),
        "inception score": grid(
            ["", "torch-fidelity", "ours"],
            [[k, f"{r['theirs']:.10g}", f"{r['ours']:.10g}"] for k, r in results["inception_score"].items()],
        ),
        "versions": ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + f"; {results['hardware']}.",
    }  # fmt: skip


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
