"""Neighbours against slow definitions and torch-fidelity; planted copies; two processes against one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from lightning_avatars.metrics import neighbours
from lightning_avatars.metrics.class_score import ClassScore
from lightning_avatars.metrics.features import FeatureBank
from lightning_avatars.metrics.frechet import Moments
from lightning_avatars.metrics.intervals import block_slices
from lightning_avatars.metrics.kernels import Polynomial
from lightning_avatars.metrics.neighbours import copied, inner, nearest, outer, precision_recall_density_coverage


def normal(seed: int, count: int, dim: int = 6, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + shift


X, Y = normal(0, 163, shift=0.3, scale=0.8), normal(1, 141)


def scores(x: Tensor, y: Tensor, blocks: int = 10) -> dict[str, tuple[Tensor, Tensor]]:
    kernel = Polynomial()
    return precision_recall_density_coverage(
        outer(x, y, inner(x, kernel, blocks), inner(y, kernel, blocks), kernel, blocks)
    )


def values(x: Tensor, y: Tensor) -> dict[str, float]:
    return {kind: float(value) for kind, (value, _) in scores(x, y).items()}


def distances(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None].double() - y.double()).norm(dim=2)


def slow_radii(x: Tensor, k: int) -> Tensor:
    return distances(x, x).sort(1).values[:, k]


def slow(x: Tensor, y: Tensor, kept: Tensor) -> dict[str, float]:
    """The four scores by their definitions, of the generated images that are kept."""
    d = distances(x, y)[kept]
    inside = d <= slow_radii(y, 5)
    return {
        "precision": float((d <= slow_radii(y, 3)).any(1).double().mean()),
        "recall": float((d <= slow_radii(x, 3)[kept, None]).any(0).double().mean()),
        "density": float(inside.double().sum(1).mean() / 5),
        "coverage": float(inside.any(0).double().mean()),
    }


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 7)
    monkeypatch.setattr(neighbours, "COLUMNS", 13)


@pytest.mark.usefixtures("small_tiles")
def test_scores_and_those_without_a_block_are_the_slow_ones():
    everything = torch.ones(163, dtype=torch.bool)
    found = scores(X, Y)
    assert {kind: float(value) for kind, (value, _) in found.items()} == pytest.approx(
        slow(X, Y, everything), rel=1e-12
    )
    assert all(0.2 < float(value) < 1.5 and float(value) != 1 for value, _ in found.values())
    for number, part in enumerate(block_slices(163, 10)):
        kept = everything.clone()
        kept[part] = False
        expected = slow(X, Y, kept)
        assert {kind: float(less[number]) for kind, (_, less) in found.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("small_tiles")
def test_radii_are_distances_to_the_third_and_the_fifth_nearest():
    radii = inner(X, Polynomial()).radii
    torch.testing.assert_close(radii, torch.stack([slow_radii(X, 3), slow_radii(X, 5)], 1), rtol=1e-10, atol=1e-10)


def test_precision_and_recall_are_torch_fidelitys():
    expected = prc_features_to_metric(X.double(), Y.double(), prc_neighborhood=3, prc_batch_size=50, verbose=False)
    found = values(X, Y)
    assert found["precision"] == pytest.approx(expected["precision"], abs=1e-6)
    assert found["recall"] == pytest.approx(expected["recall"], abs=1e-6)


def test_density_of_one_distribution_is_1_in_the_mean():
    density = [values(normal(2 * seed, 300), normal(2 * seed + 1, 300))["density"] for seed in range(12)]
    assert sum(density) / 12 == pytest.approx(1, abs=0.04)


def test_a_lost_mode_lowers_recall_and_coverage_alone():
    real = torch.cat([normal(0, 100), normal(1, 100, shift=50.0)])
    found = values(normal(2, 200), real)
    assert found["precision"] > 0.8 and found["recall"] < 0.5 and found["coverage"] < 0.51


def test_a_set_against_its_own_copy():
    """Ties at the very radius count, so each ball holds its centre and 5 others."""
    assert values(Y, Y.clone()) == {"precision": 1, "recall": 1, "density": pytest.approx(1.2), "coverage": 1}


def test_duplicates_have_balls_of_no_radius_that_hold_their_copies_alone():
    four = torch.randn(1, 6).repeat(8, 1) * 1000
    assert inner(four, Polynomial()).radii.max() < 1e-3
    assert values(four.clone(), four)["coverage"] == 1
    assert values(four * 1.0001, four) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_collapsed_samples_recall_nothing():
    found = values(Y[:1].repeat(50, 1), Y)
    assert found["precision"] == 1 and found["recall"] == pytest.approx(1 / 141) and found["coverage"] < 0.1


@pytest.mark.parametrize(("samples", "reals", "unknown"), [
    (163, 5, {"density", "coverage"}), (163, 3, {"precision", "density", "coverage"}), (3, 141, {"recall"}),
])  # fmt: skip
def test_too_few_images_for_a_ball_make_a_score_nan(samples, reals, unknown):
    found = scores(X[:samples], Y[:reals])
    assert {kind for kind, (value, _) in found.items() if value.isnan()} == unknown
    assert {kind for kind, (_, less) in found.items() if less.isnan().all()} == unknown


@pytest.mark.usefixtures("small_tiles")
def test_the_nearest_is_found_and_its_distance_is_exact():
    distance, index = nearest(X, Y)
    expected = distances(X, Y).min(1)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(distance, expected.values, rtol=1e-14, atol=0)
    assert nearest(Y[[5]] * 1000 + 1, Y * 1000 + 1)[0] == 0


def test_the_nearest_of_none_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        nearest(X, Y[:0])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_a_planted_copier_is_found_out(share):
    train, held_out, samples = normal(3, 1200), normal(4, 800), normal(5, 2000)
    copies = int(share * 2000)
    places = torch.randperm(2000, generator=torch.Generator().manual_seed(6))[:copies]
    source = torch.arange(copies) % 1200
    samples[places] = train[source] + normal(7, copies, scale=1e-3)
    found = copied(samples, train, held_out)
    assert float(found.value) == pytest.approx(share, abs=0.08)
    assert torch.equal(found.train_index[places], source) and float(found.leave_one_out.mean()) == pytest.approx(
        share, abs=0.08
    )


def test_an_image_in_both_sets_counts_as_half():
    assert float(copied(Y, Y, Y.clone()).value) == 0
    assert float(copied(Y, Y, X).value) == 1 and float(copied(X, Y, X).value) == pytest.approx(1 - (141 + 163) / 163)


def figures() -> dict[str, Tensor]:
    """Everything that processes work out together; this process has described every W-th image."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = torch.arange(rank, len(X), world)
    bank, moments, classes = FeatureBank(len(X), 6), Moments(6, 10, len(X)), ClassScore([6], len(X))
    for index in mine.split(20):
        bank.update(index, X[index])
        moments.update(X[index], index)
        classes.update([X[index].softmax(1)], index)
    x, kernel = bank.compute(), Polynomial()
    samples, reals = inner(x, kernel), inner(Y, kernel)
    both = outer(x, Y, samples, reals, kernel)
    copies = copied(x, Y[:70], Y[70:])
    found = {
        "bank": x,
        "radii": samples.radii,
        "xx": samples.kernel,
        "xy": both.kernel,
    }
    found |= {kind: torch.cat([value[None], less]) for kind, (value, less) in
              precision_recall_density_coverage(both).items()}  # fmt: skip
    found |= {"copied": copies.leave_one_out, "index": copies.train_index, "distance": copies.distance}
    found["mean"], found["cov"] = moments.compute()
    found["score"], found["scores"] = classes.compute()
    with moments.sync_context(), classes.sync_context():
        found["covs"] = torch.stack([cov for _, cov in moments.leave_one_out()])
        found["splits"] = torch.stack(classes.splits())
    return found


def work(rank: int, port: int, folder: Path) -> None:
    """Find the figures as one of two processes."""
    torch.set_num_threads(1)
    neighbours.ROWS, neighbours.COLUMNS = 7, 13
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(figures(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.usefixtures("small_tiles")
def test_two_processes_find_what_one_does(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, tmp_path), nprocs=2)
    alone, (first, second) = figures(), (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-12, atol=1e-12, msg=name)
