"""Our FID and KID against torch-fidelity's own functions, and a figure that torchmetrics documents."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from lightning_avatars.metrics.extractors.inception import Inception
from lightning_avatars.metrics.frechet import Moments, frechet_distance
from lightning_avatars.metrics.kernels import Polynomial, mmd
from lightning_avatars.metrics.neighbours import inner, outer
from tests.conf.measuring import shared

COUNT = 6  # images of each side
DIMENSIONS = 256  # of 2048: eigenvalues of a general matrix as large as torch-fidelity takes them need half a minute


@pytest.fixture(scope="module")
def weights():
    return shared("weights/inception-2015-12-05-features.safetensors")


@pytest.fixture(scope="module")
def ours(weights):
    return Inception(weights)


@pytest.fixture(scope="module")
def with_classes(weights, tmp_path_factory):
    """A file as torch-fidelity asks for, with a last layer of zeros, which neither FID nor KID reads."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(load_file(weights) | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return str(path)


def frechet(a, b):
    moments = [Moments(a.shape[1]), Moments(a.shape[1])]
    for sums, features in zip(moments, (a, b), strict=True):
        sums.update(features)
    return float(frechet_distance(*moments[0].compute(), *moments[1].compute()))


def kernel(a, b):
    within, among = inner(a, Polynomial()), inner(b, Polynomial())
    between = outer(b, a, among, within, Polynomial())
    return float(mmd(among.kernel, between.kernel, within.kernel.sum(), between.counts, len(a))[0])


def test_fid_and_kid_of_the_same_bytes_are_torch_fidelitys(ours, with_classes):
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], with_classes)
    coarse = torch.randint(0, 256, (2 * COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    smooth, blocky = (
        torch.nn.functional.interpolate(side, (64, 64), mode=mode)
        for side, mode in zip(coarse.split(COUNT), ("bicubic", "nearest"), strict=True)
    )
    images = torch.cat([smooth, blocky]).clamp(0, 255).byte()
    found, expected = ours(images).features, theirs(images)[0]

    fid = frechet(*found[:, :DIMENSIONS].split(COUNT))
    statistics = [fid_features_to_statistics(side) for side in expected[:, :DIMENSIONS].split(COUNT)]
    reference = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert reference > 1
    assert fid == pytest.approx(reference, rel=1e-3)

    options = {"kid_subsets": 1, "kid_subset_size": COUNT, "verbose": False}
    reference = kid_features_to_metric(*expected.split(COUNT), **options)["kernel_inception_distance_mean"]
    assert reference > 0.01
    assert kernel(*found.split(COUNT)) == pytest.approx(reference, rel=1e-3)


def test_the_fid_of_64_features_that_torchmetrics_documents_is_reproduced(ours, with_classes):
    torch.manual_seed(42)  # as its tests of the documentation do; building the network then draws random numbers too
    FeatureExtractorInceptionV3("inception-v3-compat", ["64"], with_classes)
    sides = []
    for low, high in ((0, 200), (100, 255)):
        images = torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8)
        with torch.no_grad():
            stems = [ours.network.stem1(ours.prepare(part)).mean((2, 3)) for part in images.split(10)]
        sides.append(torch.cat(stems))
    assert frechet(*sides) == pytest.approx(12.6388, abs=1e-3)
