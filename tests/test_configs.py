"""Every shipped file, and every model on every data, parses and builds networks that match the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_avatars import shipped
from lightning_avatars.cli import match_data
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.base import FaceModule, GenerativeModule
from tests.conf.measuring import shared

IN_SHARED = {"celeba64": "data/celeba10k"}  # label names are read from the data's own table


def build(model: str, data: str) -> tuple[FaceModule, FaceData]:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(FaceModule, "model")
    parser.add_class_arguments(FaceData, "data")
    paths = [str(shipped.find(model, "model")), str(shipped.find(data, "data"))]
    where = ["--data.dataset.path", str(shared(IN_SHARED[data]))] if data in IN_SHARED else []
    config = parser.parse_args(["--model", paths[0], "--data", paths[1], *where])
    match_data(config.model, config.data)
    made = parser.instantiate_classes(config)
    return made.model, made.data


LABELLED = [data for data in shipped.names("data") if data.startswith(("avatars", "celeba", "mnist"))]


@pytest.mark.parametrize("data", shipped.names("data"))
@pytest.mark.parametrize("model", [name for name in shipped.names("model") if name not in ("cgan", "recognition")])
def test_every_model_matches_every_data(model, data):
    module, served = build(model, data)
    assert isinstance(module, GenerativeModule)
    images = module.sample(torch.arange(2))
    assert images.shape == (2, served.channels, served.resolution, served.resolution)
    assert module.discriminator(images).logits[0].shape[0] == 2


@pytest.mark.parametrize("data", LABELLED)
def test_conditional_models_take_the_datas_labels(data):
    module, served = build("cgan", data)
    labels = torch.eye(len(served.label_names))[:2]
    images = module.sample(torch.arange(2), labels)
    assert images.shape == (2, served.channels, served.resolution, served.resolution)
    assert module.generator.label_dim == module.discriminator.label_dim == len(served.label_names) > 0


@pytest.mark.parametrize("data", LABELLED)
def test_recognisers_name_the_datas_labels(data):
    module, served = build("recognition", data)
    assert module.network.label_names == served.label_names


@pytest.mark.parametrize("path", sorted(shipped.folder("config").glob("*.yaml")), ids=lambda p: p.stem)
def test_experiments_name_files_that_exist(path: Path):
    config = yaml.safe_load(path.read_text())
    for key in ("model", "data"):
        assert (path.parent / config[key]).is_file()
