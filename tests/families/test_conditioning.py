"""Labels and codes that a generator obeys, and labels that it is sometimes not given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import Adam

from lightning_avatars.data.base import FaceData, FaceDataset, Picture
from lightning_avatars.families.adversarial import Adversarial, LatentStep
from lightning_avatars.latents import Codes
from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_avatars.networks.layers.labels import ClassHead, CodeHead, ProjectionHead
from lightning_avatars.networks.layers.normalization import BatchNorm2d
from lightning_avatars.objectives.adversarial import NonSaturating
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.base import Term
from lightning_avatars.terms.classification import Classification
from lightning_avatars.terms.information import Information
from tests.conf.training import fit, game, weights

COLOURS = {"red": (230, 30, 30), "green": (30, 230, 30), "blue": (30, 30, 230), "white": (230, 230, 230)}
PALETTE = torch.tensor(list(COLOURS.values())) / 127.5 - 1


class Squares(FaceDataset):
    """Squares of four colours, near the middle of a dark or a light gray ground."""

    @property
    def name(self) -> str:
        return "squares"

    @property
    def label_names(self) -> list[str]:
        return [*(f"colour={colour}" for colour in COLOURS), "light"]

    def fingerprint(self) -> dict[str, object]:
        return {"version": 1}

    def pictures(self, resolution: int) -> Iterator[Picture]:
        for i in range(400):
            rng = np.random.default_rng(i)
            colour, light, top, left = rng.integers(4), rng.integers(2), *rng.integers(3, 6, size=2)
            image = np.full((3, resolution, resolution), 150 if light else 20, np.uint8)
            image[:, top : top + 8, left : left + 8] = np.array(list(COLOURS.values()))[colour][:, None, None]
            image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
            labels = np.array([*np.eye(4)[colour], light], np.float32)
            yield Picture(f"{i}", image, labels, hashlib.sha256(image.tobytes()).digest()[:16])


def shown(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which colour the middle of images is nearest to, and whether their corners are light."""
    middle = images[:, :, 6:10, 6:10].mean((2, 3))
    return torch.cdist(middle, PALETTE).argmin(1), images[:, :, :2, :2].mean((1, 2, 3)) > -0.33


def squares(**arguments) -> Adversarial:
    """A small DCGAN."""
    torch.manual_seed(0)
    conditional = arguments.get("conditional", False)
    head, prior = arguments.pop("head", ProjectionHead), arguments.get("prior")
    latent_dim, label_dim = 8 if prior is None else 12, 5 if conditional else 0
    return Adversarial(
        DCGANGenerator(16, 3, label_dim, latent_dim, width=8),
        DCGANDiscriminator(16, 3, label_dim, width=8, head=head),
        NonSaturating(),
        generator_optimizer=partial(Adam, lr=2e-3, betas=(0.5, 0.99)),
        discriminator_optimizer=partial(Adam, lr=1e-3, betas=(0.5, 0.99)),
        average_half_life=300,
        **arguments,
    )


def trained(folder, images: int, **arguments) -> Adversarial:
    module = squares(**arguments)
    fit(module, folder, images, data=FaceData(Squares(), resolution=16, batch_size=16), save_every=images)
    return module


def terms(make) -> dict[str, dict[str, Term]]:
    return {"generator_terms": {"extra": make()}, "discriminator_terms": {"extra": make()}}


CONDITIONAL = {
    "projection": lambda: {"label_dropout": 0.2},
    "classification": lambda: {"head": ClassHead} | terms(partial(Classification, made=0.0)),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_generator_obeys_its_labels(tmp_path, name):
    module = trained(tmp_path, 4_800, conditional=True, **CONDITIONAL[name]())
    seeds = torch.arange(200)
    wanted, light = seeds % 4, seeds // 4 % 2
    labels = torch.cat([torch.eye(4)[wanted], light[:, None].float()], 1)
    colours, grounds = shown(module.sample(seeds, labels))
    assert (colours == wanted).float().mean() > 0.9, "by chance 0.25"
    assert (grounds == light.bool()).float().mean() > 0.9, "by chance 0.5"
    if module.label_dropout:
        colours, grounds = shown(module.sample(seeds, torch.zeros(200, 5)))
        assert len(colours.unique()) > 1 and len(grounds.unique()) > 1, "without labels it draws what it likes"


def test_a_discriminator_finds_the_codes_and_they_say_what_is_drawn(tmp_path):
    head = partial(CodeHead, code_dim=4, hidden=16)
    module = trained(tmp_path, 4_800, prior=Codes(8, [4]), head=head, **terms(Information))
    seeds = torch.arange(400)
    (code,), _ = module.prior.split(module.prior.of_seeds(seeds, 12))
    images = module.sample(seeds)
    with torch.no_grad():
        found = module.discriminator(images).heads["code"].argmax(1)
    colours, grounds = shown(images)
    joint = torch.zeros(4, 8).index_put((code.argmax(1), colours * 2 + grounds), torch.tensor(1 / 400), accumulate=True)
    apart = joint.sum(0) * joint.sum(1, keepdim=True)
    nats = torch.special.xlogy(joint, joint / apart.clamp(1e-9)).sum()
    assert (found == code.argmax(1)).float().mean() > 0.9, "by chance 0.25"
    assert nats > 0.3, "of at most log 4 = 1.39; by chance 0.03"


def labels_given(module: Adversarial, start: int = 0, stop: int = 200, player: str = "generator") -> torch.Tensor:
    batch = {"image": torch.zeros(stop - start, 3, 8, 8), "labels": torch.ones(stop - start, 3)}
    return LatentStep(module, batch, Draws(0, 0, 200, start, stop, torch.device("cpu")), player).labels


def test_some_images_lose_their_labels_the_same_ones_in_both_turns_and_in_any_chunk():
    module = game(conditional=True, label_dropout=0.3)
    labels = labels_given(module)
    assert set(labels.sum(1).tolist()) == {0.0, 3.0} and (labels[:, 0] == 0).float().mean() == pytest.approx(
        0.3, abs=0.1
    )
    assert torch.equal(labels_given(module, player="discriminator"), labels)
    assert torch.equal(torch.cat([labels_given(module, 0, 70), labels_given(module, 70, 200)]), labels)
    assert labels_given(game(conditional=True)).min() == 1
    assert labels_given(game()) is None


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("share", [-0.1, 1.0, 0.5])
def test_label_dropout_is_a_share_of_images_with_labels(conditional, share):
    if conditional and share == 0.5:
        return
    said = (
        rf"a share in \[0, 1\) of images with labels, got {share}"
        if conditional
        else "conditional is false: set it to true"
    )
    with pytest.raises(ValueError, match=f"label_dropout is .*{said}"):
        game(conditional=conditional, label_dropout=share)


GAMES = {
    "codes": lambda: {"prior": Codes(6, [4], 2), "head": partial(CodeHead, code_dim=8)} | terms(Information),
    "classes": lambda: {"conditional": True, "label_dropout": 0.3, "head": ClassHead} | terms(Classification),
}


@pytest.mark.parametrize("name", GAMES)
def test_chunks_equal_the_whole_batch_and_a_resumed_run_is_the_same_run(tmp_path, name):
    whole, chunked, first, second = (squares(**GAMES[name](), micro_batch=n) for n in (None, 3, None, None))
    for module in (whole, chunked, first, second):  # batch norm sees one chunk at a time
        for layer in module.modules():
            if isinstance(layer, BatchNorm2d):
                layer.eval().train = lambda mode=True, layer=layer: layer
    data = partial(FaceData, Squares(), resolution=16, batch_size=8)
    fit(whole, tmp_path / "whole", 32, data=data()), fit(chunked, tmp_path / "chunked", 32, data=data())
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=1e-3, atol=1e-4)
    fit(first, tmp_path / "half", 16, data=data())
    half = tmp_path / "half/checkpoints/images_000000016.ckpt"
    fit(second, tmp_path / "half", 32, half, data=data())
    assert torch.equal(weights(second), weights(whole)) and second.images_seen == 32


def test_codes_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"latent_dim is 12, but .* 9 \+ 4 \+ 0 = 13 numbers"):
        squares(prior=Codes(9, [4]))
