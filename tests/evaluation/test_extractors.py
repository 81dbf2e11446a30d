"""Extractors by the names that people type."""

from __future__ import annotations

import pytest
import torch
import yaml

from lightning_avatars import shipped
from lightning_avatars.evaluation.extractors import load_extractor, load_extractors
from lightning_avatars.metrics.extractors.recognizer import SHIPPED, Recognizer
from lightning_avatars.networks.recognizer import RecognitionNet, save_recognizer
from tests.conf.measuring import shared
from tests.evaluation.arrays import Quadrants, noise


def test_the_shipped_recognisers_are_found_by_name():
    for name in ("avatarnet", "mnistnet"):
        extractor = load_extractor(name)
        assert isinstance(extractor, Recognizer) and extractor.name == name
        assert extractor.sha256 == Recognizer(str(SHIPPED / f"{name}.safetensors")).sha256


def test_a_file_of_ones_own_names_a_class_and_its_arguments(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"class_path": "tests.evaluation.arrays.Quadrants", "init_args": {"scale": 3.0}}))
    extractor = load_extractor(str(path))
    assert (extractor.name, extractor.scale) == ("quadrants", 3.0)
    assert torch.equal(extractor(noise(2)).features, 3 * Quadrants()(noise(2)).features)


def test_a_recogniser_that_a_run_wrote_is_found_by_its_path(tmp_path):
    save_recognizer(RecognitionNet(16, 3, ["Smiling"], width=4), tmp_path / "run/recognizer.safetensors")
    extractor = load_extractor(str(tmp_path / "run/recognizer.safetensors"))
    assert (extractor.name, extractor.label_names, extractor.dim) == ("recognizer", ["Smiling"], 32)


def test_inception_is_found_by_name_with_the_weights_of_the_cache(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    file = shared("weights/inception-2015-12-05-features.safetensors")
    (tmp_path / "weights" / file.name).symlink_to(file.resolve())
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    extractor = load_extractor("inception")
    assert (extractor.dim, extractor.score("fd"), extractor.score("kd")) == (2048, "fid", "kid")


def test_unknown_names_and_files_are_refused_with_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"'avatarnt' is no file and no shipped extractor; nearest.*avatarnet"):
        load_extractor("avatarnt")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_extractor("nowhere.safetensors")


def test_every_shipped_extractor_is_loaded_or_says_which_weights_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    names = shipped.names("extractor")
    assert {"avatarnet", "mnistnet", "inception", "dinov2", "clip", "arcface"} == set(names)
    for name in set(names) - {"avatarnet", "mnistnet"}:
        with pytest.raises(FileNotFoundError, match=r"weights"):
            load_extractor(name)


def test_a_file_that_names_no_extractor_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("class_path: torch.nn.Identity", "class_path: nowhere.Nothing", "3", ""):
        path.write_text(text)
        with pytest.raises(Exception, match=r"(?s)extractor|Extractor"):
            load_extractor(str(path))


def test_two_extractors_of_one_name_are_refused(tmp_path):
    save_recognizer(RecognitionNet(16, 3, ["Smiling"], width=4), tmp_path / "avatarnet.safetensors")
    with pytest.raises(ValueError, match="same name in scores: avatarnet, avatarnet"):
        load_extractors("avatarnet,avatarnet")
    with pytest.raises(ValueError, match="same name in scores: avatarnet, avatarnet"):
        load_extractors(["avatarnet", str(tmp_path / "avatarnet.safetensors")])
    for names in (["mnistnet", "avatarnet"], "mnistnet, avatarnet"):
        assert [extractor.name for extractor in load_extractors(names)] == ["mnistnet", "avatarnet"]


def test_loading_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_extractor("avatarnet")
    assert torch.equal(torch.get_rng_state(), before), "a run with scores must draw what one without them draws"
