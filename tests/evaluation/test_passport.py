"""What a score depends on is written down, and whatever makes two of them differ is named."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from lightning_avatars.evaluation import passport
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.passport import difference
from lightning_avatars.evaluation.reconstructions import score_sets
from lightning_avatars.evaluation.samples import RealPictures, real_pictures, score_pictures, score_samples
from lightning_avatars.networks.sequence import TokenSampling
from lightning_avatars.terms.classification import Classification
from tests.conf.adversarial_autoencoders import vqgan_game
from tests.conf.training import game
from tests.conf.translation import TinyJudge, TinyTranslator, batch_of, informed, paired_game
from tests.conf.words import first_stage, prior
from tests.evaluation.arrays import LABELS, Arrays, Quadrants, Translator, noise, silent, tiny_data


@pytest.fixture(scope="module")
def samples():
    module, data = game(conditional=True), tiny_data()
    module.label_names = data.label_names
    return score_samples(module, real_pictures(data), [Quadrants()], 20, block=8, track=silent).passport


@pytest.fixture(scope="module")
def sets():
    data = tiny_data()
    real = real_pictures(data)
    judges = Judges([Quadrants()], [], Quadrants(name="faces"))
    return score_sets(Translator(noise(20)), real.held_out, "test", judges, track=silent)[0].result.passport


FIELDS = (
    "images", "seeds", "weights", "truncation_psi", "labels", "rounding", "reference", "held_out", "extractors",
    "device", "versions",
)  # fmt: skip


def test_every_field_that_is_documented_is_there(samples, sets):
    assert set(FIELDS) <= samples.keys() and set(FIELDS) <= sets.keys()
    for field in FIELDS:
        assert f"``{field}``" in passport.__doc__, field
    for one in (samples, sets):
        assert one["extractors"]["quadrants"].keys() >= {"sha256", "resize", "precision", "pairs"}
        assert one["reference"].keys() == {"name", "split", "images", "key"}
        assert one["versions"].keys() == {"lightning_avatars", "torch", "lightning", "python"}
        assert json.loads(json.dumps(one)) == one


def test_the_fields_say_what_was_done(samples, sets):
    data = tiny_data()
    counts = data.store.counts()
    assert (samples["images"], samples["seeds"], samples["block"]) == (20, [0, 19], 8)
    assert (samples["weights"], samples["truncation_psi"], samples["labels"]) == ("average", 1.0, "all pictures")
    assert samples["rounding"] == "(x + 1) * 127.5, rounded, clamped to 0 … 255"
    reference, held_out = samples["reference"], samples["held_out"]
    assert (reference["name"], reference["split"], reference["images"]) == ("tiny", "train", counts["train"])
    assert held_out["images"] == counts["val"] + counts["test"] and held_out["key"] != reference["key"]
    assert samples["extractors"].keys() == {"quadrants", "pixels"}
    assert samples["extractors"]["quadrants"] == {
        "sha256": Quadrants().sha256, "resize": "mean of quarters", "precision": "float32",
        "pairs": {"images": 20, "reference": counts["train"]}, "without_classes": None,
    }  # fmt: skip
    assert samples["device"].startswith("cpu") and samples["versions"]["torch"] == torch.__version__
    assert sets["images"] == sets["reference"]["images"] == counts["val"] + counts["test"]
    assert sets["extractors"]["faces"] == {"sha256": Quadrants().sha256, "resize": "mean of quarters"}
    assert sets["weights"] == "last"


def test_labels_and_weights_are_those_that_samples_were_drawn_with():
    module = game(conditional=True, average_half_life=None)
    module.label_names, module.label_rows = LABELS, torch.eye(3)
    found = score_samples(module, RealPictures(Arrays(noise(30))), [Quadrants()], 20, track=silent).passport
    assert (found["labels"], found["weights"]) == ("training pictures", "last")
    found = score_samples(game(), RealPictures(Arrays(noise(30))), [Quadrants()], 20, track=silent).passport
    assert (found["labels"], found["weights"]) == (None, "average")


def test_pictures_that_were_there_already_have_neither_seeds_nor_weights():
    pictures = Arrays(noise(20), "drawn elsewhere")
    found = score_pictures(pictures, RealPictures(Arrays(noise(30, 1))), [Quadrants()], silent).passport
    assert found["weights"] is found["truncation_psi"] is found["labels"] is found["held_out"] is None
    assert found["rounding"] is None
    assert found["pictures"] == {"name": "drawn elsewhere", "split": None, "images": 20, "key": pictures.key}
    assert set(FIELDS) <= found.keys(), set(FIELDS) - found.keys()


MUST_AGREE = {
    "images": 21, "rounding": "cut off", "truncation_psi": 0.5, "labels": "training pictures", "reference.key": "0",
    "reference.split": "val",
}  # fmt: skip
OF_EXTRACTORS = {"sha256": "0", "resize": "nearest", "precision": "float16", "pairs": {"images": 20, "reference": 1}}


def changed(original, path, value):
    found = copy.deepcopy(dict(original))
    *parents, field = path
    inner = found
    for parent in parents:
        inner = inner[parent]
    inner[field] = value
    return found


@pytest.mark.parametrize("extractor", [None, "quadrants"])
@pytest.mark.parametrize("field", MUST_AGREE)
def test_each_field_that_must_agree_is_named_with_both_values(samples, field, extractor):
    other = changed(samples, field.split("."), MUST_AGREE[field])
    said = difference(extractor, samples, other)
    assert said.startswith(f"{field} is ") and said.endswith(f" and {MUST_AGREE[field]!r}")
    assert difference(extractor, other, samples).startswith(f"{field} is {MUST_AGREE[field]!r} and ")


@pytest.mark.parametrize("field", OF_EXTRACTORS)
def test_each_field_of_the_extractor_that_must_agree_is_named(samples, field):
    other = changed(samples, ("extractors", "quadrants", field), OF_EXTRACTORS[field])
    assert difference("quadrants", samples, other).startswith(f"extractors.quadrants.{field} is ")
    assert difference("pixels", samples, other) is None  # which is another network


def test_networks_that_judged_pairs_must_agree_where_the_score_is_theirs(sets):
    other = changed(sets, ("extractors", "faces", "sha256"), "0")
    assert difference("faces", sets, other).startswith("extractors.faces.sha256 is ")
    assert difference("quadrants", sets, other) is difference(None, sets, other) is None


FREE = {"seeds": [5, 24], "weights": "last", "device": "another", "versions": {}, "block": 1}


@pytest.mark.parametrize("field", FREE)
def test_what_two_models_may_differ_in_is_no_difference(samples, field):
    assert difference("quadrants", samples, changed(samples, (field,), FREE[field])) is None


def test_equal_passports_do_not_differ(samples, sets):
    for extractor in (None, "quadrants"):
        assert difference(extractor, samples, copy.deepcopy(dict(samples))) is None
        assert difference(extractor, sets, copy.deepcopy(dict(sets))) is None
    assert difference("pixels", samples, samples) is None


SAMPLING = {"temperature": 1.0, "top_k": None, "nucleus": 1.0, "guidance": 1.0}


def test_what_samples_depend_on_beside_is_noted_where_there_is_any(samples):
    module = prior(sampling=TokenSampling(temperature=0.5, top_k=3))
    found = score_samples(module, RealPictures(Arrays(noise(30))), [Quadrants()], 20, track=silent).passport
    assert found["sampling"] == SAMPLING | {"temperature": 0.5, "top_k": 3} and samples["sampling"] is None
    assert json.loads(json.dumps(found)) == found and "``sampling``" in passport.__doc__


@pytest.mark.parametrize(("field", "value"), {"temperature": 0.5, "top_k": 5, "nucleus": 0.9, "guidance": 2}.items())
def test_samples_that_were_drawn_otherwise_are_not_compared(samples, field, value):
    one, other = (dict(samples) | {"sampling": drawn} for drawn in (SAMPLING, SAMPLING | {field: value}))
    assert difference("quadrants", one, other) == f"sampling.{field} is {SAMPLING[field]!r} and {value!r}"
    assert difference("quadrants", other, other) is None
    old = {name: fact for name, fact in samples.items() if name != "sampling"}
    for silent_one in (samples, old):
        assert difference("quadrants", silent_one, other) is difference("quadrants", other, silent_one) is None
    assert difference("quadrants", old, old) is difference("quadrants", samples, old) is None


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("make", [lambda with_any: first_stage(3 if with_any else 0), vqgan_game])
def test_reconstructions_are_made_with_the_pictures_own_labels_where_with_any(make, conditional):
    real, judges = real_pictures(tiny_data()), Judges([Quadrants()], [])
    (found,) = score_sets(make(conditional), real.held_out, "test", judges, track=silent)
    assert found.result.passport["labels"] == ("the pictures' own" if conditional else None)


@pytest.mark.parametrize("conditional", [True, False])
def test_conditional_pairs_are_translated_with_the_pictures_own_labels(conditional):
    size = {"label_dim": 3 if conditional else 0, "source_channels": 4}
    parts = {"generator": TinyTranslator(**size), "discriminator": TinyJudge(**size)}
    read = {"class": Classification(made=0.0)} if conditional else {}
    terms = {"discriminator_terms": read, "generator_terms": read}
    module = informed(paired_game(conditional=conditional, **parts, **terms))
    made = module.evaluation_sets(batch_of())["translation"]
    assert made.labels == ("the pictures' own" if conditional else None) and made.target is not None


@pytest.mark.parametrize("field", ["rounding", "truncation_psi", "labels"])
def test_pictures_from_elsewhere_are_compared_with_samples(samples, field):
    other = changed(samples, (field,), None)
    assert difference("quadrants", samples, other) is difference("quadrants", other, samples) is None


def test_an_extractor_that_the_other_passport_lacks_is_named(samples):
    other = copy.deepcopy(dict(samples))
    del other["extractors"]["quadrants"]
    assert "quadrants" in difference("quadrants", samples, other)
