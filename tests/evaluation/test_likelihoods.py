"""Likelihoods of real pictures: right, the same on two processes, and blind to an empty border."""

from __future__ import annotations

import json
import math
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_avatars.data.pictures import StorePictures
from lightning_avatars.evaluation import likelihoods
from lightning_avatars.evaluation.likelihoods import knows_likelihoods, score_likelihood
from lightning_avatars.evaluation.passport import difference
from lightning_avatars.images import to_float
from tests.evaluation.arrays import Shower, noise, silent, tiny_data

WORDS = 5


class Known(Shower):
    """z ~ N(0, 1) adds to all numbers of a picture, which are normal around it: the likelihood is known.

    Its posterior is the true one with ``scale`` times its deviation.
    """

    of = "bytes"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(noise(4))
        self.scale, self.asked = scale, []

    def posterior(self, batch):
        x = to_float(batch["image"]).flatten(1).double()
        return x, x.sum(1) / (x.shape[1] + 1), 1 / math.sqrt(x.shape[1] + 1)

    def log_weights(self, batch, samples, draws):
        assert not self.training
        self.asked.append((len(batch["image"]), samples))
        x, mean, deviation = self.posterior(batch)
        q = torch.distributions.Normal(mean[:, None], deviation * self.scale)
        z = mean[:, None] + deviation * self.scale * torch.randn(len(x), samples, dtype=torch.float64)
        normal = torch.distributions.Normal(0, 1)
        return normal.log_prob(x[:, None] - z[..., None]).sum(2) + normal.log_prob(z) - q.log_prob(z)

    def rates(self, batch, draws):
        _, mean, deviation = self.posterior(batch)
        q = torch.distributions.Normal(mean, deviation * self.scale)
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1))
        return [0.25 * kl, 0.75 * kl]

    def likelihood_facts(self):
        return {"likelihood": "known", "of": self.of}

    def word_counts(self, batch):
        return torch.bincount(batch["image"][:, 0, 0, 0].long() % WORDS, minlength=WORDS + 1)


class Coded(Shower):
    """Knows words and no likelihood."""

    word_counts = Known.word_counts


class Rated(Shower):
    """Has latents and no likelihood."""

    def rates(self, batch, draws):
        return [torch.full((len(batch["image"]),), 3.0)]


def pictures(count: int = 53) -> StorePictures:
    data = tiny_data(96)
    return StorePictures(data.store, data.store.split("train")[:count], "tiny")


def truth(shown: StorePictures) -> torch.Tensor:
    x = to_float(shown.read(slice(None))).flatten(1).double()
    covariance = torch.eye(x.shape[1]).double() + 1
    return torch.distributions.MultivariateNormal(torch.zeros(x.shape[1]).double(), covariance).log_prob(x)


def scored(module, shown, samples=6, **options):
    return score_likelihood(module, shown, "val", samples, block=options.pop("block", 8), track=silent, **options)


def test_with_the_true_posterior_scores_are_the_likelihood():
    shown = pictures()
    result = scored(Known(), shown)
    nats, dimensions = -float(truth(shown).mean()), 3 * 8 * 8
    values = {name: score.value for name, score in result.scores.items()}
    assert values["nll_elbo_53"] == pytest.approx(nats, rel=1e-9) == values["nll_iwae6_53"]
    assert values["bpd_elbo_53"] == pytest.approx(nats / math.log(2) / dimensions, rel=1e-9) == values["bpd_iwae6_53"]
    assert values["rate_level0_53"] * 3 == pytest.approx(values["rate_level1_53"])
    assert values["rate_53"] == pytest.approx(values["rate_level0_53"] + values["rate_level1_53"])
    first = shown.read(slice(None))[:, 0, 0, 0].long() % WORDS
    counts = torch.bincount(first, minlength=WORDS + 1)
    assert values["codes_used_53"] == pytest.approx(float((counts > 0).double().mean()))
    entropy = torch.distributions.Categorical(counts.double()).entropy()
    assert values["perplexity_53"] == pytest.approx(float(entropy.exp()))
    low, high = result.scores["nll_elbo_53"].interval
    assert low < nats < high


def test_a_worse_posterior_is_looser_and_importance_samples_tighten_it():
    shown = pictures()
    worse = {name: score.value for name, score in scored(Known(scale=2.0), shown, samples=400).scores.items()}
    nats = -float(truth(shown).mean())
    gap = float(torch.distributions.kl_divergence(torch.distributions.Normal(0, 2.0), torch.distributions.Normal(0, 1)))
    assert worse["nll_elbo_53"] == pytest.approx(nats + gap, abs=0.05)
    assert nats - 0.02 < worse["nll_iwae400_53"] < nats + 0.1 * gap


def test_a_border_is_no_dimension_and_densities_have_no_bits():
    shown, module = pictures(), Known()
    whole, inner = scored(module, shown), scored(module, shown, border=2)
    assert inner.passport["dimensions"] == 3 * 4 * 4 and inner.passport["border"] == 2
    assert inner.scores["bpd_elbo_53"].value == pytest.approx(4 * whole.scores["bpd_elbo_53"].value)
    assert inner.scores["nll_elbo_53"] == whole.scores["nll_elbo_53"]
    assert "dimensions is" in difference(None, whole.passport, inner.passport)
    module.of = "density"
    assert not any(name.startswith("bpd") for name in scored(module, shown).scores)


def test_passports_say_what_likelihoods_depend_on():
    passport = scored(Known(), pictures()).passport
    assert passport["likelihood"] == "known" and passport["of"] == "bytes"
    assert passport["importance_samples"] == 6 and passport["images"] == 53 and passport["block"] == 8
    assert passport["reference"]["split"] == "val" and passport["weights"] == "last"


def test_no_more_are_decoded_at_once_than_memory_allows(monkeypatch):
    monkeypatch.setattr(likelihoods, "AT_ONCE", 32 * 8**2)
    module = Known()
    scored(module, pictures(20), samples=10)
    assert module.asked[1:] == [(8, 4), (8, 4), (8, 2)] * 2 + [(4, 4), (4, 4), (4, 2)]


def test_scores_leave_the_module_and_the_generators_as_they_were():
    module = Known()
    module.train()
    before = torch.get_rng_state()
    first, again = scored(module, pictures()), scored(module, pictures())
    assert torch.equal(torch.get_rng_state(), before) and module.training
    assert first.plain()["scores"] == again.plain()["scores"]


def test_modules_without_likelihoods_have_words_or_nothing():
    assert not knows_likelihoods(Shower(noise(4))) and knows_likelihoods(Known()) and knows_likelihoods(Coded(noise(4)))
    assert scored(Shower(noise(4)), pictures()) is None
    result = scored(Coded(noise(4)), pictures())
    assert result.scores.keys() == {"perplexity_53", "codes_used_53"}
    assert result.passport["importance_samples"] is None


def test_latents_have_rates_without_a_likelihood_too():
    module = Rated(noise(4))
    scores = scored(module, pictures()).scores
    assert scores.keys() == {"rate_53"}
    assert scores["rate_53"].value == pytest.approx(3.0) and scores["rate_53"].interval == pytest.approx((3.0, 3.0))


def test_a_diverged_module_scores_nan():
    module = Known(scale=1.0)
    module.posterior = lambda batch: (Known.posterior(module, batch)[0] * 1e200, *Known.posterior(module, batch)[1:])
    with pytest.warns(UserWarning, match="no finite likelihood"):
        result = scored(module, pictures())
    assert all(math.isnan(result.scores[f"{name}_53"].value) for name in ("nll_elbo", "nll_iwae6", "bpd_elbo"))


def work(rank: int, world: int, folder) -> None:
    """Score as one of several processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting{world}", rank=rank, world_size=world)
    found = [scored(Known(scale=2.0), pictures(), block=block).plain() | {"seconds": 0} for block in (8, 40)]
    (folder / f"{world}_{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes_find_what_one_finds(tmp_path):
    expected = [scored(Known(scale=2.0), pictures(), block=block).plain() | {"seconds": 0} for block in (8, 40)]
    multiprocessing.set_forkserver_preload(["lightning_avatars.cli"])
    mp.start_processes(work, (2, tmp_path), 2, start_method="forkserver")
    found = [json.loads((tmp_path / f"2_{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1] == json.loads(json.dumps(expected))
