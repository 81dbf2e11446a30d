"""What the parts of a configuration must agree on is filled in, or refused before anything is trained."""

import re
from collections.abc import Sequence

import pytest
from jsonargparse import ArgumentParser

from lightning_avatars import shipped
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.base import FaceModule
from lightning_avatars.matching import match_data
from lightning_avatars.networks.base import Generator

DATA = ["--data.dataset", "tests.conf.tiny.TinyFaces", "--data.resolution", "16", "--data.batch_size", "8"]
QUICK = ["--run.images", "8", "--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]


class Deaf(Generator):
    """A network that takes no labels."""

    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, z, labels=None):
        return z


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cgan", "--model.generator.label_dim", "7"], r"DCGANGenerator: label_dim is 7 .*, but the data has 3 labels"),
        (["dcgan", "--model.discriminator.label_dim", "3"], "label_dim is 3 in .* but conditional is false"),
        (["cgan", "--model.generator", "tests.test_matching.Deaf"], "conditional is True, but Deaf takes .* length 0"),
        (["cgan", "--model.conditional", "false", "--model.label_dropout", "0.1"], "label_dropout is a share"),
        (["infogan", "--model.generator.latent_dim", "128"], r"latent_dim is 128, but .* 62 \+ 10 \+ 2 = 74 numbers"),
        (["infogan", "--model.prior.continuous", "3"], r"latent_dim is 74, but .* 62 \+ 10 \+ 3 = 75 numbers"),
        (["infogan", "--model.prior", "Gaussian"], "a CodeHead finds codes, but code_dim is 0: use a prior"),
        (["infogan", "--model.discriminator.head", "ProjectionHead"], "'code' of length 14, but DCGAN.* has none"),
        (["acgan", "--model.discriminator_terms", "{}"], "has a head 'class' that no term trains"),
        (["acgan", "--model.conditional", "false"], "a ClassHead names labels, but label_dim is 0"),
    ],
)
def test_what_does_not_fit_together_is_said_in_a_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--model", *args, *DATA, *QUICK])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert re.search(message, " ".join(said.split()))
    assert not list(tmp_path.rglob("*.ckpt"))


def matched(*args: str, data: Sequence[str] = ()):
    """The model that a command line comes to, once it is matched."""
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_subclass_arguments(FaceModule, "model")
    parser.add_class_arguments(FaceData, "data")
    config = parser.parse_args([*args, *DATA, *data])
    match_data(config.model, config.data)
    return parser.instantiate_classes(config).model


def test_the_labels_come_from_the_data_and_the_codes_from_the_prior():
    codes = matched("--model", str(shipped.find("infogan", "model")))
    assert codes.discriminator.heads == {"code": 10 + 2 * 2} and codes.generator.label_dim == 0
    classes = matched("--model", str(shipped.find("acgan", "model")))
    assert classes.discriminator.heads == {"class": 3} and classes.generator.label_dim == 3


def test_other_codes_need_only_the_latent_to_follow():
    codes = ["--model.prior.categorical", "[4,3]", "--model.generator.latent_dim", "71"]
    model = matched("--model", str(shipped.find("infogan", "model")), *codes)
    assert model.discriminator.heads == {"code": 7 + 2 * 2}


def test_a_length_of_the_codes_that_the_prior_overrides_is_said():
    with pytest.warns(UserWarning, match="CodeHead: code_dim is 9 in the configuration, but the prior has 14"):
        matched("--model", str(shipped.find("infogan", "model")), "--model.discriminator.head.code_dim", "9")


PAIRS = ["--data.dataset", "tests.conf.translation.TinyPairs"]


@pytest.mark.parametrize(("further", "planes"), [([], 4), (["--model.boundaries", "true"], 5)])
def test_networks_of_pairs_take_planes_of_source_classes_and_boundaries(further, planes):
    model = matched("--model", str(shipped.find("pix2pix", "model")), *further, data=PAIRS)
    assert model.generator.source_channels == planes
    assert model.discriminator.stages[0][0].in_channels == planes + 3


def test_networks_of_domains_are_named_as_the_data_name_them_and_see_no_planes_beside():
    model = matched(
        "--model", str(shipped.find("cyclegan", "model")), data=["--data.dataset", "tests.conf.translation.TinyDomains"]
    )
    assert list(model.generator.networks) == list(model.discriminator.networks) == ["night", "day"]
    assert model.generator.networks["day"].source_channels == 3
    assert model.pool.images.shape == (2, 50, 3, 16, 16)
