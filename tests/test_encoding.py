"""Latents of a dataset's pictures: how they spread, which way each attribute lies, and what has no way to it."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.checkpoints import load_module
from lightning_avatars.data.base import FaceData
from lightning_avatars.encoding import Encoded, find_latents, size_of
from lightning_avatars.families.adversarial import Adversarial
from lightning_avatars.families.adversarial_autoencoder import AdversarialAutoencoder
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.families.base import LatentModule
from lightning_avatars.families.boltzmann import DeepBeliefNetwork
from lightning_avatars.images import to_float
from tests.conf.encoding import Encoding, Squares, encoding_checkpoint
from tests.conf.tiny import TinyFaces
from tests.conf.training import game


class Red(TinyFaces):
    """All of one colour."""

    @property
    def name(self) -> str:
        return "red"

    def pictures(self, resolution):
        for picture in super().pictures(resolution):
            picture.labels[:2] = 1, 0
            yield picture


class Unlabelled(TinyFaces):
    """Pictures without labels."""

    @property
    def name(self) -> str:
        return "unlabelled"

    @property
    def label_names(self) -> list[str]:
        return []

    def pictures(self, resolution):
        for picture in super().pictures(resolution):
            yield type(picture)(picture.name, picture.image, picture.labels[:0], picture.digest)


def encoded(dataset: TinyFaces | None = None, resolution: int = 8, conditional: bool = False) -> Encoded:
    module = Encoding(Squares(8, 3 if conditional else 0), conditional)
    module.label_names, module.label_rows = TinyFaces().label_names, torch.zeros(1, 3)
    module.config = {}
    return Encoded(module, FaceData(dataset or TinyFaces(), resolution))


def training_pictures(subject: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    store = subject.served.store
    places = store.split("train")
    return torch.from_numpy(store.read(places)), torch.from_numpy(store.labels[places])


def test_a_vector_leads_from_the_mean_without_to_the_mean_with_an_attribute(monkeypatch):
    monkeypatch.setattr("lightning_avatars.encoding.BATCH", 7)
    subject = encoded()
    images, labels = training_pictures(subject)
    latents = subject.module.encode(to_float(images))
    assert len(images) > 50 and subject.varied == ["colour=red", "colour=blue", "large"]
    for column, name in enumerate(subject.varied):
        having = labels[:, column] == 1
        torch.testing.assert_close(subject.vector(name), latents[having].mean(0) - latents[~having].mean(0))
    torch.testing.assert_close(subject.moments.mean.float(), latents.mean(0))
    torch.testing.assert_close(subject.moments.deviation.float(), latents.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_the_labels_of_conditional_modules_are_taken_out_of_their_latents():
    plain, conditional = encoded(), encoded(conditional=True)
    difference = plain.vector("large") - conditional.vector("large")
    torch.testing.assert_close(difference, torch.full((12,), 0.1), rtol=1e-4, atol=1e-5)


def test_only_so_many_pictures_are_encoded_at_even_distances(monkeypatch):
    monkeypatch.setattr("lightning_avatars.encoding.MOST_ENCODED", 3)
    subject = encoded()
    images, _ = training_pictures(subject)
    chosen = images[[0, (len(images) - 1) // 2, len(images) - 1]]
    torch.testing.assert_close(subject.moments.mean.float(), subject.module.encode(to_float(chosen)).mean(0))


def test_pictures_are_counted_round_and_round():
    subject = encoded()
    count = len(subject.served.store.split("test"))
    images, labels = subject.pictures("test", torch.tensor([1, 1 + count]))
    assert images.shape == (2, 3, 8, 8) and torch.equal(images[0], images[1]) and torch.equal(labels[0], labels[1])


def test_modules_that_encode_are_told_from_those_that_do_not():
    assert encoded().module.encodes and not game().encodes
    with pytest.raises(ValueError, match="Adversarial makes pictures from latents, but can't find the latents of a"):
        game().encode(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("family", [Adversarial, AdversarialAutoencoder, Autoencoding, DeepBeliefNetwork])
def test_every_family_that_finds_latents_says_so(family):
    assert family.encodes == (family.encode is not LatentModule.encode)


def test_a_modules_size_is_that_of_its_samples():
    assert size_of(encoded().module) == (3, 8, 8)
    images = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert find_latents(encoded().module, torch.cat([images, images.new_full((2, 3, 8, 8), 255)]), None).eq(1).all()


def test_a_checkpoints_own_data_is_the_default(tmp_path):
    subject = Encoded(load_module(encoding_checkpoint(tmp_path / "a.ckpt")))
    assert torch.equal(subject.vector("large"), encoded().vector("large"))


@pytest.mark.parametrize(
    ("subject", "name", "message"),
    [
        (lambda: encoded(), "lagre", "no label is called 'lagre'; the nearest are large"),
        (lambda: encoded(), "colour=green", "no label is called 'colour=green'; colour is one of red, blue"),
        (lambda: encoded(Red()), "colour=red", r"all of the \d+ training pictures looked at have 'colour=red'"),
        (lambda: encoded(Red()), "colour=blue", r"none of the \d+ training pictures looked at have 'colour=blue'"),
        (lambda: encoded(Unlabelled()), "large", "the data has no labels, so that there is no way to 'large'"),
        (lambda: encoded(resolution=16), "large", "images of 3 x 8 x 8 .* but the data has 3 x 16 x 16: name data"),
        (
            lambda: encoded(Unlabelled(), conditional=True),
            "large",
            "labels are none, but the model was trained with colo",
        ),
    ],
)
def test_what_leads_nowhere_is_said(subject, name, message):
    with pytest.raises(ValueError, match=message):
        subject().vector(name)
