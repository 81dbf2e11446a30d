"""Translations are scored at validations and tests: each way, each change of labels, each part of a label map."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_avatars.callbacks.evaluate import SampleQuality
from lightning_avatars.callbacks.preview import Preview
from lightning_avatars.callbacks.reconstruction import ReconstructionQuality
from lightning_avatars.callbacks.run import Run
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.data.domains import AttributeDomains
from lightning_avatars.evaluation.judges import Judges
from lightning_avatars.evaluation.reconstructions import held_out, score_sets
from lightning_avatars.families.base import EvaluationSet
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.metrics.extractors.recognizer import Recognizer
from lightning_avatars.metrics.extractors.segmenter import load_segmenter
from lightning_avatars.networks.recognizer import RecognitionNet, save_recognizer
from lightning_avatars.networks.segmenter import SegmentationNet, save_segmenter
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit
from tests.conf.translating import translating_checkpoint
from tests.conf.translation import DATASETS, GAMES, PARTS, TinyPairs, styled
from tests.evaluation.arrays import Shower, noise, silent

COUNT = 240
SETS = {
    "paired": ["translation"],
    "cycle": ["night_to_day", "night_to_day_to_night", "day_to_night", "day_to_night_to_day"],
    "cut": ["night_to_day"],
    "star": ["reconstruction"],
}


def data(name: str) -> FaceData:
    return FaceData(DATASETS[name](COUNT), resolution=8, batch_size=8, num_workers=0)


def judge(folder) -> str:
    """Write a recogniser of tiny faces that nothing was taught."""
    torch.manual_seed(0)
    path = folder / "taught.safetensors"
    save_recognizer(RecognitionNet(16, 3, TinyFaces().label_names, width=4), path)
    return str(path)


@pytest.mark.parametrize("name", GAMES)
def test_each_family_is_scored_at_validation_and_at_test_with_the_untranslated(tmp_path, name):
    faces = data(name)
    quality = ReconstructionQuality(extractors=[judge(tmp_path)], changes=12)
    module = GAMES[name]()
    callbacks = [quality, SampleQuality(), Preview(every=8, columns=4), Run(images=8, validate_every=0)]
    trainer = fit(module, tmp_path, data=faces, callbacks=callbacks)
    trainer.test(module, faces, verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    changes = ["changes"] if name == "star" else []
    plain = [f"{way}_untranslated" for way in SETS[name] if name in ("cycle", "cut") and way.count("_to_") == 1]
    assert [r["set"] for r in results if r["stage"] == "val"] == SETS[name] + changes
    assert [r["set"] for r in results if r["stage"] == "test"] == SETS[name] + plain + changes
    for result in results:
        count = result["passport"]["images"]
        assert all(score["value"] is not None for score in result["scores"].values())
        if result["set"] == "changes":
            assert result["scores"].keys() == {"changed_12", "kept_12"} and "others than colour" in result["accuracy"]
        else:
            assert f"fd_taught_{count}" in result["scores"]
        if "direction" in result["passport"]:
            assert count == result["passport"]["direction"]["from"]["images"] < len(faces.store.split("val"))
    assert list((tmp_path / "previews").iterdir())


WATCHED = {name: (name, dict) for name in GAMES} | {
    "batch norm": ("paired", lambda: {"normalized": True}), "encoder": ("paired", lambda: {"generator": styled()})
}  # fmt: skip


@pytest.mark.parametrize("case", WATCHED)
def test_games_with_scores_and_previews_and_without_end_with_the_same_weights(tmp_path, case):
    name, options = WATCHED[case]
    states = []
    for watched in (True, False):
        module, folder = GAMES[name](**options()), tmp_path / str(watched)
        quality = ReconstructionQuality(extractors=[judge(tmp_path)], changes=12, enabled=watched)
        validated = Run(images=32, validate_every=8 if watched else 0)
        fit(module, folder, data=data(name), callbacks=[quality, Preview(every=8 if watched else 0), validated])
        states.append(module.state_dict())
        assert (folder / "results.json").exists() == (folder / "previews").exists() == watched
    seen, unseen = ({key: x for key, x in state.items() if isinstance(x, torch.Tensor)} for state in states)
    assert seen.keys() == unseen.keys() and all(torch.equal(x, unseen[key]) for key, x in seen.items())


def test_a_segmenter_finds_the_parts_in_images_that_show_them(tmp_path):
    faces = FaceData(TinyPairs(COUNT), resolution=8, batch_size=8, num_workers=0)
    faces.prepare_data()
    faces.setup("test")
    torch.manual_seed(0)
    save_segmenter(SegmentationNet(8, 3, PARTS, width=4, halvings=1), tmp_path / "segmenter.safetensors")
    segmenter, pictures = load_segmenter(tmp_path / "segmenter.safetensors"), held_out(faces, "test", 1000)

    class Mirroring(Shower):
        def evaluation_sets(self, batch):
            image = batch["image"]
            return {
                "same": EvaluationSet(to_float(image), image, mask=batch["mask"]),
                "other": EvaluationSet(to_float(image.flip(3)), image, mask=batch["mask"]),
                "without": EvaluationSet(to_float(image), image),
            }

    sets = score_sets(Mirroring(noise(1)), pictures, "test", Judges(segmenter=segmenter), 7, silent)
    same, other, without = (one.result.scores for one in sets)
    real, count = torch.from_numpy(pictures.store.read(pictures.index)), len(pictures)
    true = torch.from_numpy(pictures.store.read(pictures.index, "masks"))
    for scores, images in ((same, real), (other, real.flip(3))):
        found, ious = segmenter(images), []
        for part in range(3):
            both, either = ((found == part) & (true == part)).sum(), ((found == part) | (true == part)).sum()
            ious.append(float(both) / float(either))
        accuracy = float((found == true).double().mean())
        assert scores[f"pixel_accuracy_{count}"].value == pytest.approx(accuracy)
        assert scores[f"miou_{count}"].value == pytest.approx(sum(ious) / 3)
    assert not {f"miou_{count}", f"pixel_accuracy_{count}"} & without.keys() and f"psnr_{count}" in without
    assert other[f"miou_{count}"].floor == same[f"miou_{count}"].value == same[f"miou_{count}"].floor
    facts = sets[0].result.passport["extractors"]["segmenter"]
    assert facts == {"sha256": segmenter.sha256, "resize": segmenter.resize}


class Thirds(TinyPairs):
    """Pairs without a source, a third of which has a label."""

    def __init__(self):
        super().__init__(COUNT, sources=False)

    @property
    def label_names(self):
        return ["third"]

    def pictures(self, resolution):
        for i, picture in enumerate(super().pictures(resolution)):
            yield replace(picture, labels=np.array([i % 3 == 0], np.float32))


def test_of_domains_with_label_maps_the_way_there_and_back_must_show_the_parts_of_where_it_began(tmp_path):
    faces = FaceData(AttributeDomains(Thirds(), {"night": "third", "day": "not third"}), resolution=8)
    faces.prepare_data()
    faces.setup("test")
    torch.manual_seed(0)
    save_segmenter(SegmentationNet(8, 3, PARTS, width=4, halvings=1), tmp_path / "segmenter.safetensors")
    segmenter, pictures = load_segmenter(tmp_path / "segmenter.safetensors"), held_out(faces, "test", 1000)
    module = GAMES["cycle"]()
    module.domain_names = faces.domain_names
    sets = score_sets(module, pictures, "test", Judges(segmenter=segmenter), 7, silent)
    found = {one.result.set: one.result.scores for one in sets}
    for number, name in enumerate(("night_to_day_to_night", "day_to_night_to_day")):
        index = pictures.index[pictures.store.domains[pictures.index] == number]
        batch = {"image": torch.from_numpy(pictures.store.read(index)), "domain": torch.full((len(index),), number)}
        true = torch.from_numpy(pictures.store.read(index, "masks"))
        back = to_bytes(module.evaluation_sets(batch)[name].images)
        for images, key in ((back, "value"), (batch["image"], "floor")):
            accuracy = float((segmenter(images) == true).double().mean())
            score = found[name][f"pixel_accuracy_{len(index)}"]
            assert getattr(score, key) == pytest.approx(accuracy, abs=5e-3)
        assert not [score for score in found[name.rpartition("_to_")[0]] if score.startswith(("pixel", "miou"))]


def test_a_segmenter_of_other_parts_is_refused_before_training(tmp_path):
    save_segmenter(SegmentationNet(8, 3, ["a", "b"], width=4, halvings=1), tmp_path / "segmenter.safetensors")
    quality = ReconstructionQuality(segmenter=tmp_path / "segmenter.safetensors")
    module = GAMES["paired"]()
    module.training_step = lambda *_: pytest.fail("training has started")
    with pytest.raises(ValueError, match="names the parts a, b, but the data's label maps have nothing, disc, heart"):
        fit(module, tmp_path, data=data("paired"), callbacks=[quality, Run(images=8, validate_every=0)])


def test_too_few_pictures_of_a_domain_are_told_before_training(tmp_path):
    module = GAMES["cycle"]()
    module.training_step = lambda *_: pytest.fail("training has started")
    few = ReconstructionQuality(images=18)
    with pytest.raises(ValueError, match="only 9 pictures of night in the val split are shown"):
        fit(module, tmp_path, data=data("cycle"), callbacks=[few, Run(images=8, validate_every=0)])


def test_the_tool_scores_a_checkpoint_that_translates_and_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint = str(translating_checkpoint(tmp_path / "cycle.ckpt", "Domain"))
    named = ["--data.dataset", "tests.conf.translation.TinyDomains", "--data.dataset.count", str(COUNT)]
    named += ["--data.resolution", "8", "--extractors", "avatarnet"]
    main(["evaluate", checkpoint, *named, "--json", "scores.json", "--output", "page"])
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert [r["set"] for r in results] == [*SETS["cycle"], "night_to_day_untranslated", "day_to_night_untranslated"]
    cycle = results[1]["scores"]
    (psnr,) = (score["value"] for name, score in cycle.items() if name.startswith("psnr"))
    assert 5 < psnr < 30 and math.isfinite(psnr)
    page = (tmp_path / "page/index.html").read_text()
    assert 'src="night_to_day.png"' in page and 'src="best_day_to_night_to_day.png"' in page
    assert "untranslated.png" not in page
    assert "<span>source</span><span>result</span><span>there and back</span>" in page
    for options, message in (
        (["--reference", "page"], "is shown the held-out pictures of a dataset: name it by -c"),
        ([*named, "--split", "val"], "for models that draw samples"),
        ([], "trained on pictures with domains (night, day), but those of tiny have none"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", checkpoint, *options])
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_tool_scores_changes_of_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = str(translating_checkpoint(tmp_path / "star.ckpt", "Attribute"))
    main(["evaluate", checkpoint, "--extractors", judge(tmp_path), "--json", "scores.json", "--output", "page"])
    page = (tmp_path / "page/index.html").read_text()
    assert "<span>source</span><span>colour=red</span><span>colour=blue</span><span>large</span>" in page
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert [r["set"] for r in results] == ["reconstruction", "changes"]
    assert results[1]["passport"]["extractors"]["taught"]["sha256"] == Recognizer("taught.safetensors").sha256
