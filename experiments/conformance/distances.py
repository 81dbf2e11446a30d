"""FID and KID of features by every tool's own functions, by ours and by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cleanfid.fid
import numpy as np
import pytorch_fid.fid_score
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_avatars.metrics.frechet import Moments, frechet_distance
from lightning_avatars.metrics.kernels import Polynomial, mmd
from lightning_avatars.metrics.neighbours import inner, outer, precision_recall_density_coverage

PLAIN = "plain formulas"
Distance = Callable[[Tensor, Tensor], float]


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
