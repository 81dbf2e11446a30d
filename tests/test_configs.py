"""Every shipped file, and every model on every data, parses and builds networks that match the data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_avatars import shipped
from lightning_avatars.checkpoints import export_weights
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.evaluation.extractors import load_extractor
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.families.base import FaceModule, GenerativeModule
from lightning_avatars.families.boltzmann import DeepBeliefNetwork
from lightning_avatars.families.translation import Translation
from lightning_avatars.matching import match_data
from lightning_avatars.metrics.extractors.base import Extractor


@pytest.fixture
def celeba(tmp_path) -> Path:
    """CelebA's table alone: label names are read from it, and no picture is touched."""
    (tmp_path / "list_attr_celeba.txt").write_text("1\nSmiling Young Male\n000001.jpg 1 -1 -1\n")
    return tmp_path


def build(model: str, data: str, celeba: Path, *further: str) -> tuple[FaceModule, FaceData]:
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(FaceModule, "model")
    parser.add_class_arguments(FaceData, "data")
    paths = [str(shipped.find(model, "model")), str(shipped.find(data, "data"))]
    where = ["--data.dataset.path", str(celeba)] if Path(data).stem.startswith("celeba64") else []
    config = parser.parse_args(["--model", paths[0], "--data", paths[1], *where, *further])
    match_data(config.model, config.data)
    made = parser.instantiate_classes(config)
    return made.model, made.data


CONDITIONAL = ("cgan", "acgan", "cvae")
NAMING = ("recognition", "segmentation")
MAPS, MOVED = ("avatar_parts", "celeba_masks"), ("avatar_styles", "domains", "celeba_avatars")
TRANSLATING = {  # and the data that they are for
    "pix2pix": (*MAPS, "pairs"), "pix2pixhd": MAPS, "spade": (*MAPS, "pairs"), "cyclegan": MOVED, "cut": MOVED,
    "stargan": ("avatar_expressions", "avatars", "celeba64", "mnist"),
}  # fmt: skip
LABELLED = [data for data in shipped.names("data") if data.startswith(("avatars", "celeba64", "mnist"))]


@pytest.mark.parametrize("data", shipped.names("data"))
@pytest.mark.parametrize(
    "model",
    [name for name in shipped.names("model") if name not in (*CONDITIONAL, *NAMING, *TRANSLATING, "vqgan_prior")],
)
def test_every_model_matches_every_data(model, data, celeba):
    module, served = build(model, data, celeba)
    assert isinstance(module, GenerativeModule)
    if isinstance(module, DeepBeliefNetwork):
        module.sampling_steps = 1  # as many as it takes need minutes at 256 x 256
    images = module.sample(torch.arange(2))
    assert images.shape == (2, served.channels, served.resolution, served.resolution)
    if isinstance(module, Adversarial):
        assert module.discriminator(images).logits[0].shape[0] == 2


@pytest.mark.parametrize("model", CONDITIONAL)
@pytest.mark.parametrize("data", LABELLED)
def test_conditional_models_take_the_datas_labels(model, data, celeba):
    module, served = build(model, data, celeba)
    labels = torch.eye(len(served.label_names))[:2]
    images = module.sample(torch.arange(2), labels)
    assert images.shape == (2, served.channels, served.resolution, served.resolution)
    assert module.sampler.label_dim == len(served.label_names) > 0
    if isinstance(module, Adversarial):
        assert module.discriminator.label_dim == module.sampler.label_dim


@pytest.mark.parametrize("data", LABELLED)
def test_recognisers_name_the_datas_labels(data, celeba):
    module, served = build("recognition", data, celeba)
    assert module.network.label_names == served.label_names


@pytest.mark.parametrize(
    ("model", "data"),
    [(model, data) for model, kinds in TRANSLATING.items() for data in shipped.names("data") if data.startswith(kinds)],
)
def test_translations_match_the_data_that_they_are_for(model, data, celeba):
    module, served = build(model, data, celeba)
    assert isinstance(module, Translation) and not module.samples
    module.label_names, module.label_rows = served.label_names, torch.eye(len(served.label_names))
    module.mask_names, module.source_channels = served.mask_names, served.source_channels
    module.domain_names = served.domain_names
    module.check_data(served)
    batch = module.blank(2, served.channels, served.resolution)
    batch |= {"image": batch["image"].byte(), "index": torch.arange(2), "domain": torch.arange(2)}
    for found in module.evaluation_sets(batch).values():
        assert found.images.shape[1:] == (served.channels, served.resolution, served.resolution)
    assert len(module.verdict_on_real(batch).logits) >= 1


MAPPED = [data for data in shipped.names("data") if data.startswith(("avatar_parts", "celeba_masks"))]


@pytest.mark.parametrize("data", MAPPED)
def test_segmenters_name_the_datas_parts(data, celeba):
    module, served = build("segmentation", data, celeba)
    network = module.network
    assert network.mask_names == served.mask_names and network.resolution == served.resolution


@pytest.mark.parametrize("conditional", ["false", "true"])
@pytest.mark.parametrize("data", LABELLED)
def test_a_prior_takes_words_and_places_from_its_first_stage(data, conditional, celeba, tmp_path):
    first, served = build("vqvae", data, celeba)
    described = yaml.safe_load(shipped.find("vqvae", "model").read_text())
    sizes = {"resolution": served.resolution, "channels": served.channels}
    described["init_args"]["network"]["init_args"] |= sizes
    first.config = {"model": described}
    export_weights(first, tmp_path / "vqvae.safetensors")
    named = ["--model.first_stage", str(tmp_path / "vqvae.safetensors"), "--model.conditional", conditional]
    module, _ = build("vqgan_prior", data, celeba, *named)
    assert tuple(module.image_shape) == (served.channels, served.resolution, served.resolution)
    assert (module.network.vocabulary, module.network.length) == (first.network.codebook, 64)
    assert module.network.label_dim == (len(served.label_names) if conditional == "true" else 0)


def test_a_prior_without_a_first_stage_asks_for_one(celeba):
    with pytest.raises(ValueError, match=r"give --model\.first_stage a checkpoint"):
        build("vqgan_prior", "mnist32", celeba)


@pytest.mark.parametrize("path", sorted(shipped.folder("config").glob("*.yaml")), ids=lambda p: p.stem)
def test_experiments_name_files_that_exist(path: Path):
    config = yaml.safe_load(path.read_text())
    for key in ("model", "data"):
        assert (path.parent / config[key]).is_file()


PLAYERS = {  # millions of parameters, generator and discriminator; what papers state of them the networks' tests say
    "acgan_celeba64": (15.2, 11.1),
    "dcgan_celeba64": (13.1, 11.0),
    "infogan_mnist32": (1.0, 1.2),
    "progan_ffhq256": (23.0, 23.1),
    "r3gan_ffhq256": (23.1, 23.0),
    "sngan_celeba64": (12.2, 9.6),
    "stylegan1_ffhq256": (26.1, 23.0),
    "stylegan2_ada_ffhq256": (24.8, 24.0),
    "stylegan2_ffhq1024": (30.4, 29.0),
    "stylegan2_ffhq256": (30.0, 28.9),
    "stylegan3_ffhq256": (23.3, 24.0),
    "stylegan3_r_ffhq256": (15.8, 24.0),
    "wgan_gp_celeba64": (8.5, 9.6),
}


@pytest.mark.parametrize("name", shipped.names("config"))
def test_every_experiments_networks_are_built(name, celeba):
    path = shipped.find(name, "config")
    written = yaml.safe_load(path.read_text())
    with torch.device("meta"):
        module, _ = build(str(path.parent / written["model"]), str(path.parent / written["data"]), celeba)
    if type(module) is Adversarial and name != "demo":
        sizes = [sum(p.numel() for p in player.parameters()) for player in (module.generator, module.discriminator)]
        assert tuple(round(size / 1e6, 1) for size in sizes) == PLAYERS[name]


NEED_WEIGHTS = ("arcface", "clip", "dinov2", "inception")


@pytest.mark.parametrize("name", shipped.names("extractor"))
def test_every_extractor_parses(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Extractor, "extractor")
    described = yaml.safe_load(shipped.find(name, "extractor").read_text())
    assert parser.parse_object({"extractor": described}).extractor.class_path == described["class_path"]


@pytest.mark.parametrize("name", [name for name in shipped.names("extractor") if name not in NEED_WEIGHTS])
def test_extractors_that_come_with_their_weights_describe_pictures(name):
    extractor = load_extractor(name)
    pictures = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    assert extractor.name == name and extractor(pictures).features.shape == (2, extractor.dim)


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_extractors_without_their_weights_say_where_these_go(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "weights"))):
        load_extractor(name)


def printed(args: list[str], capsys) -> dict:
    """The configuration that a command line comes to."""
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", shipped.names("config"))
def test_every_experiment_goes_through_the_command_line(name, capsys):
    written = yaml.safe_load(shipped.find(name, "config").read_text())
    config = printed(["fit", "-c", name], capsys)
    for part in ("run", "preview", "quality", "trainer"):
        assert written.get(part, {}).items() <= config[part].items()
    model, data = (yaml.safe_load((shipped.folder("config") / written[part]).read_text()) for part in ("model", "data"))
    assert config["model"]["class_path"] == model["class_path"]
    assert config["data"]["resolution"] == data["resolution"]
    assert config["data"]["dataset"]["class_path"] == data["dataset"]["class_path"]


@pytest.mark.parametrize("name", shipped.names("trainer"))
def test_every_trainer_goes_with_a_model_and_data(name, capsys):
    written = yaml.safe_load(shipped.find(name, "trainer").read_text())
    config = printed(["fit", "-c", "dcgan_avatars32", "--trainer", name], capsys)
    assert written.items() <= config["trainer"].items()
    assert config["trainer"]["max_epochs"] == -1, "what the clocks need stays"
    assert config["model"]["init_args"]["generator"]["class_path"].endswith("DCGANGenerator")
