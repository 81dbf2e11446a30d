"""Sets that hold only some pictures of a batch: each direction between domains has its own counts and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.reconstructions import held_out, score_sets
from lightning_avatars.evaluation.scores import Result
from lightning_avatars.images import to_bytes, to_float
from tests.conf.domains import Exposure, domain_data
from tests.evaluation.arrays import Quadrants, quadrants, silent


@pytest.fixture(scope="module")
def data():
    return domain_data()


@pytest.fixture(scope="module")
def pictures(data):
    return held_out(data, "test", 1000)


def scored(pictures, block=7, module=None, **options) -> dict[str, Result]:
    found = score_sets(module or Exposure(), pictures, "test", Judges([Quadrants()]), block, silent, **options)
    return {one.result.set: one.result for one in found}


def of(pictures, number) -> torch.Tensor:
    """Pictures of one domain."""
    index = pictures.index[pictures.store.domains[pictures.index] == number]
    return torch.from_numpy(pictures.store.read(index))


def slow_frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Heusel et al. 2017, Eq. 6: the trace of a root is the sum of the eigenvalues' roots."""
    x, y = (quadrants(images).double().numpy() for images in (a, b))
    root = np.sqrt(np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).astype(complex)).real.sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * root)


def slow_kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Gretton et al. 2012, Eq. 3 with KID's kernel, pair by pair."""
    x, y = (quadrants(images).double().numpy() for images in (a, b))

    def kernel(u, v):
        return (u @ v / len(u) + 1) ** 3

    within = [np.mean([kernel(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(u, v) for u in x for v in y]))


def test_each_direction_is_compared_with_its_own_target_domain(pictures):
    class Exact(Exposure):
        """Without noise, so that what it makes is known."""

        def evaluation_sets(self, batch):
            torch.manual_seed(0)
            sets = super().evaluation_sets(batch)
            plain = {"dark_to_bright": self.moved(batch["image"][batch["domain"] == 0], 1.0)}
            return sets | {name: sets[name]._replace(images=images) for name, images in plain.items()}

    dark, bright = of(pictures, 0), of(pictures, 1)
    assert 10 <= len(dark) != len(bright) >= 10 and len(dark) + len(bright) == len(pictures)
    result = scored(pictures, module=Exact())["dark_to_bright"]
    made = to_bytes((to_float(dark) + 1).clamp(-1, 1))
    name = f"quadrants_{len(dark)}"
    assert result.scores[f"fd_{name}"].value == pytest.approx(slow_frechet(made, bright), rel=1e-5)
    assert result.scores[f"kd_{name}"].value == pytest.approx(slow_kernel_distance(made, bright), rel=1e-4, abs=1e-9)
    assert {"fd", "kd", "precision", "recall", "density", "coverage"} == {n.partition("_")[0] for n in result.scores}


def test_the_untranslated_baseline_is_the_source_domain_as_it_is(pictures):
    found, dark, bright = scored(pictures, untranslated=True), of(pictures, 0), of(pictures, 1)
    assert list(found) == [
        "dark_to_bright", "dark_to_bright_to_dark", "bright_to_dark", "bright_to_dark_to_bright",
        "dark_to_bright_untranslated", "bright_to_dark_untranslated",
    ]  # fmt: skip
    for (mine, theirs), way in (((dark, bright), "dark_to_bright"), ((bright, dark), "bright_to_dark")):
        name = f"fd_quadrants_{len(mine)}"
        plain = found[f"{way}_untranslated"]
        assert plain.scores[name].value == pytest.approx(slow_frechet(mine, theirs), rel=1e-5)
        assert found[way].scores[name].value < 0.1 * plain.scores[name].value
        assert plain.passport["weights"] is plain.passport["rounding"] is None
        assert plain.passport["reference"] == found[way].passport["reference"]


def test_the_way_there_and_back_is_scored_pair_by_pair(pictures):
    result, dark = scored(pictures)["dark_to_bright_to_dark"], of(pictures, 0)
    back = to_bytes(((to_float(dark) + 1).clamp(-1, 1) - 0.9).clamp(-1, 1))
    difference = (back.double() - dark.double()) / 255
    count = len(dark)
    assert result.scores[f"l1_{count}"].value == pytest.approx(float(difference.abs().mean()), rel=1e-9)
    psnr = -10 * difference.square().mean((1, 2, 3)).log10()
    assert result.scores[f"psnr_{count}"].value == pytest.approx(float(psnr.mean()), rel=1e-9)


def test_a_picture_that_is_looked_at_is_the_one_that_was_scored(pictures):
    dark = of(pictures, 0)
    (one,) = (
        one
        for one in score_sets(Exposure(), pictures, "test", Judges(), 7, silent)
        if one.result.set == "dark_to_bright_to_dark"
    )
    for place in (0, 5, len(dark) - 1):
        made, target = one.look(place)
        assert torch.equal(target, dark[place])
        error = ((made.double() - target.double()) / 255).abs().mean()
        assert float(one.values["l1"][place]) == pytest.approx(float(error), rel=1e-9)


def test_passports_name_the_direction_and_the_pictures_of_both_domains(pictures):
    found, dark, bright = scored(pictures), of(pictures, 0), of(pictures, 1)
    there, back = (found[name].passport for name in ("dark_to_bright", "dark_to_bright_to_dark"))
    assert there["images"] == back["images"] == len(dark)
    assert there["reference"] == there["direction"]["to"] and back["reference"] == back["direction"]["from"]
    facts = there["direction"]
    assert facts["from"] == there["direction"]["from"] and facts["from"]["key"] != facts["to"]["key"]
    assert (facts["from"]["images"], facts["to"]["images"]) == (len(dark), len(bright))
    assert facts["to"]["name"] == "two_domains, bright" and facts["to"]["split"] == "test"
    assert there["extractors"]["quadrants"]["pairs"] == {"images": len(dark), "reference": len(bright)}
    assert found["bright_to_dark"].passport["direction"] == {"from": facts["to"], "to": facts["from"]}


def test_the_size_of_blocks_changes_nothing_where_there_is_no_noise(pictures):
    few, many = (scored(pictures, block)["dark_to_bright_to_dark"].scores for block in (1, 25))
    for name, score in few.items():
        assert score.value == pytest.approx(many[name].value, rel=1e-6, abs=1e-12), name


def test_as_many_pictures_of_each_domain_are_shown(data):
    some = held_out(data, "test", 24)
    domains = data.store.domains[some.index]
    assert (domains == 0).sum() == (domains == 1).sum() == 12 and (np.diff(some.index) > 0).all()
    with pytest.raises(ValueError, match="only 9 pictures of dark in the test split are shown"):
        held_out(data, "test", 18)
