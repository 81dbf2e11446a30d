"""A prior over codes learns, draws the same images from the same seeds, and is all in one file."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

from lightning_avatars.callbacks.run import Run
from lightning_avatars.checkpoints import export_weights, load_module, read_checkpoint
from lightning_avatars.cli import main
from lightning_avatars.data.base import FaceData
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.families.autoregressive import Autoregressive
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.images import to_float
from lightning_avatars.networks.convolutional import ConvolutionalAutoencoder
from lightning_avatars.networks.recognizer import RecognitionNet
from lightning_avatars.networks.sequence import TokenSampling, log_likelihood
from lightning_avatars.networks.transformer import Transformer
from lightning_avatars.objectives.likelihoods import DiscretizedLogistic, Gaussian
from tests.conf.faults import equal, killed_and_whole, saved, training_state
from tests.conf.processes import join, start_two
from tests.conf.tiny import TinyFaces
from tests.conf.training import fit, game, silent_trainer, weights
from tests.conf.words import PRIOR, TinyWords, first_stage, first_stage_file, prior


def data(**options) -> FaceData:
    return FaceData(TinyFaces(), **{"resolution": 8, "batch_size": 8} | options)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A first stage's checkpoint."""
    return first_stage_file(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Autoregressive:
    """A prior that has learned whose colour and size a disc has."""
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    module = prior(conditional=True, label_dropout=0.1, average_half_life=500, optimizer=optimizer)
    fit(module, tmp_path_factory.mktemp("learned"), 6400, data=data(batch_size=32), save_every=0)
    return module


def test_it_learns_what_it_is_asked_to_draw(learned):
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1]]).repeat_interleave(16, 0)
    drawn = learned.sample(torch.arange(64), labels)
    assert drawn.shape == (64, 3, 8, 8)
    seen = data()
    seen.prepare_data()
    seen.setup("fit")
    pictures, own = torch.from_numpy(seen.store.read(seen.store.split("train"))), seen.store.labels[:]
    for row in labels[::16]:
        like = torch.from_numpy((own[seen.store.split("train")] == row.numpy()).all(1))
        codes = learned.first_stage.encode(to_float(pictures[like][:1]))
        expected = learned.first_stage.decode(codes)
        close = (drawn[(labels == row).all(1)] - expected).abs().mean((1, 2, 3)) < 0.1
        assert close.float().mean() > 0.8, "pictures with these labels have all the same codes"


def test_the_validation_loss_is_that_of_the_averaged_network_in_bits(learned, tmp_path):
    seen = data()
    trainer = fit(prior(), tmp_path, 8, data=seen)
    (found,) = trainer.validate(learned, seen, verbose=False)
    index = seen.store.split("val")
    codes = learned.first_stage.encode(to_float(torch.from_numpy(seen.store.read(index))))
    labels = torch.from_numpy(seen.store.labels[index])
    with torch.no_grad():
        nats = -log_likelihood(learned.average.average, codes, labels).double().sum(1).mean().item()
    assert found["val/bits_per_code"] == pytest.approx(nats / 16 / 0.6931472, rel=1e-5)
    assert found["val/bits_per_dimension"] == pytest.approx(nats / 192 / 0.6931472, rel=1e-5)
    assert found["val/bits_per_code"] < 0.4, "of 3 before it has learned"


def test_a_seed_is_the_same_image_in_any_batch(learned):
    seeds, labels = torch.randperm(150)[:100] + 5, torch.rand(100, 3).round()
    whole = learned.sample(seeds, labels)
    assert len(whole.unique(dim=0)) > 4
    assert torch.equal(learned.sample(seeds[70:], labels[70:]), whole[70:])
    assert torch.equal(learned.sample(seeds[31:32], labels[31:32]), whole[31:32])
    assert torch.equal(learned.sample(seeds.flip(0), labels.flip(0)).flip(0), whole)
    assert torch.equal(learned.sample(seeds), learned.sample(seeds, learned.draw_labels(seeds)))
    state = torch.get_rng_state()
    learned.sample(seeds[:1])
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_come_from_the_average_and_leave_the_network_as_it_was(learned):
    other = prior(conditional=True)
    other.load_state_dict(learned.state_dict())
    for p in other.network.parameters():
        p.data.normal_()
    assert other.network.training and learned.averaged
    assert torch.equal(other.sample(torch.arange(8)), learned.sample(torch.arange(8)))
    assert other.network.training and not other.first_stage.network.training
    last = prior(average_half_life=None)
    before = last.sample(torch.arange(8))
    for p in last.network.parameters():
        p.data.normal_()
    assert not torch.equal(last.sample(torch.arange(8)), before) and last.network.training and not last.averaged


def test_the_first_stage_is_frozen_and_a_copy(tmp_path):
    first = first_stage()
    module = prior(first=first)
    with torch.no_grad():
        first.network.brightness.fill_(3.0)
    before = weights(module.first_stage).clone()
    fit(module, tmp_path, 40)
    assert torch.equal(weights(module.first_stage), before) and not torch.equal(before, weights(first.network))
    assert not module.first_stage.network.training and first.network.brightness.requires_grad


def test_codes_are_computed_once_and_those_of_mirrored_pictures_too(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    modules = {name: prior() for name in ("first", "again", "mirrored", "other data", "other weights")}
    with torch.no_grad():
        modules["other weights"].first_stage.network.brightness.fill_(0.4)
    calls, files = {}, {}
    for name, module in modules.items():
        dataset = TinyFaces(90) if name == "other data" else TinyFaces()
        served = FaceData(dataset, resolution=8, batch_size=8, horizontal_flip=name == "mirrored")
        before = module.first_stage.network.calls
        fit(module, tmp_path / name, 80, data=served, limit_val_batches=0)
        calls[name] = module.first_stage.network.calls - before
        files[name] = len(list((tmp_path / "cache/codes").glob("*")))
    assert calls == {"first": 2, "again": 0, "mirrored": 4, "other data": 2, "other weights": 2}, "two blocks"
    assert files == {"first": 2, "again": 2, "mirrored": 4, "other data": 6, "other weights": 8}


def test_kept_codes_are_those_of_the_batches_pictures(tmp_path):
    seen = []

    class Watched(Autoregressive):
        def training_step(self, batch, batch_idx):
            seen.append(torch.equal(batch["codes"], self.first_stage.encode(to_float(batch["image"]))))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Watched(first_stage(), partial(Transformer, width=8, layers=1, heads=1))
    fit(module, tmp_path, 160, data=FaceData(Lopsided(), resolution=8, batch_size=8, horizontal_flip=True, seed=3))
    assert seen == [True] * 20 and len(module.codes) and not (module.codes[:, 0] == module.codes[:, 1]).all()


def test_with_crops_codes_are_those_of_what_was_cut_out(tmp_path):
    seen = []

    class Watched(Autoregressive):
        def training_step(self, batch, batch_idx):
            seen.append("codes" in batch)
            return super().training_step(batch, batch_idx)

    modules = {}
    for crop_from in (None, 1.0, 1.5):
        torch.manual_seed(0)
        modules[crop_from] = Watched(first_stage(), partial(Transformer, width=8, layers=1, heads=1))
        fit(modules[crop_from], tmp_path / str(crop_from), 40, data=data(crop_from=crop_from, horizontal_flip=True))
    assert seen == [True] * 5 + [False] * 10 and modules[1.0].codes is modules[1.5].codes is None
    assert torch.equal(weights(modules[None]), weights(modules[1.0])), "squares as large as the pictures are these"
    assert not torch.equal(weights(modules[None]), weights(modules[1.5]))


def test_without_data_of_ours_codes_are_those_of_each_batch(tmp_path):
    image, labels = torch.randint(0, 256, (4, 8, 3, 8, 8), dtype=torch.uint8), torch.zeros(8, 0)
    module = prior()
    trainer = silent_trainer(tmp_path)
    before = module.first_stage.network.calls
    trainer.fit(module, DataLoader([{"image": some, "labels": labels} for some in image], batch_size=None))
    assert module.codes is None and module.first_stage.network.calls == before + 4 and module.images_seen == 32


class Lopsided(TinyFaces):
    """Discs whose left half is dark."""

    @property
    def name(self):
        return "lopsided"

    def pictures(self, resolution):
        for picture in super().pictures(resolution):
            picture.image[..., : resolution // 2] //= 4
            yield picture


def test_training_goes_on_bit_for_bit(tmp_path):
    options = {"data": data(horizontal_flip=True)}
    make = partial(prior, conditional=True, label_dropout=0.3)
    make = partial(make, network=partial(Transformer, label_dim=3, width=16, layers=1, heads=2, dropout=0.2))
    whole, resumed = make(), make()
    fit(whole, tmp_path / "whole", 80, **options)
    fit(make(), tmp_path / "half", 40, callbacks=[Run(images=40, validate_every=0)], data=data(horizontal_flip=True))
    checkpoint = tmp_path / "half/checkpoints/images_000000040.ckpt"
    fit(resumed, tmp_path / "rest", 80, ckpt_path=checkpoint, data=data(horizontal_flip=True))
    assert resumed.images_seen == whole.images_seen == 80
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(make()), weights(whole))


def test_one_file_is_enough_to_draw(words, tmp_path):
    mine = shutil.copy(words, tmp_path / "words.ckpt")
    arguments = ["fit", "-c", PRIOR, "--trainer.default_root_dir", str(tmp_path / "run")]
    arguments += ["--model.first_stage", str(mine), "--model.conditional", "true", "--model.label_dropout", "0.1"]
    main([*arguments, "--model.sampling.top_k", "5"])
    Path(mine).unlink()
    path = tmp_path / "run/checkpoints/images_000000064.ckpt"
    module = load_module(path)
    assert module.sampling.top_k == 5 and module.images_seen == 64
    assert module.first_stage.network.brightness.item() == pytest.approx(average_of(words), abs=1e-6)
    images = module.sample(torch.arange(4))
    export_weights(module, tmp_path / "prior.safetensors")
    assert torch.equal(load_module(tmp_path / "prior.safetensors").sample(torch.arange(4)), images)
    main(["sample", str(path), "--count", "2", "--output", str(tmp_path / "drawn")])
    assert len(list((tmp_path / "drawn").glob("seed_*.png"))) == 2
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["init_args"]["first_stage"] == str(mine), "the run is the one that was asked for"


def average_of(path: Path) -> float:
    return float(read_checkpoint(path)["state_dict"]["average.average.brightness"])


def test_exported_weights_are_a_first_stage_too(words, tmp_path):
    export_weights(load_module(words), tmp_path / "words.safetensors")
    a, b = (prior(first=path) for path in (words, tmp_path / "words.safetensors"))
    assert a.first_stage.fingerprint() == b.first_stage.fingerprint() != prior().first_stage.fingerprint()


def test_a_first_stage_of_other_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"makes images of 3 x 8 x 8, but the data has 3 x 16 x 16"):
        fit(prior(), tmp_path, 8, data=data(resolution=16))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": partial(Transformer, label_dim=3)}, "conditional is False, but Transformer takes label vectors"),
        ({"network": lambda words, places: Transformer(9, places)}, "has 8 words and 16 codes in an image"),
        ({"label_dropout": 0.1}, "a share of images with labels, and conditional is false"),
        ({"conditional": True, "sampling": TokenSampling(guidance=2.0)}, "guidance is 2.0, which needs a network that"),
        ({"first": first_stage(3)}, "takes label vectors of length 3, and the prior of 0"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        prior(**options)


def test_an_average_of_weights_in_pieces_is_refused_before_they_are_cut():
    module = prior()
    module._trainer = SimpleNamespace(strategy=FSDPStrategy(), precision="32-true")
    with pytest.raises(ValueError, match="FSDPStrategy cuts weights into pieces, which an average can't follow"):
        module.setup("fit")


def test_there_is_no_truncation(learned):
    with pytest.raises(ValueError, match="has no truncation"):
        learned.sample(torch.arange(1), truncation_psi=0.5)


def test_a_conditional_first_stage_is_given_the_labels_and_a_likelihood_its_output(tmp_path):
    module = prior(conditional=True, first=first_stage(3))
    fit(module, tmp_path, 16)
    assert module.sample(torch.arange(3)).shape == (3, 3, 8, 8)

    class Logistic(TinyWords):
        def decode(self, latents, labels=None):
            return torch.cat([super().decode(latents, labels), torch.ones(len(latents), 3, 8, 8)], 1)

    module = prior(first=Autoencoding(Logistic(), DiscretizedLogistic(), average_half_life=None))
    assert module.sample(torch.arange(2)).shape == (2, 3, 8, 8)


def test_guidance_draws_what_is_asked_for_more_often(learned):
    labels = torch.tensor([[0.0, 1, 1]]).expand(64, -1)
    plain = log_likelihood(learned.sampler, learned.sampling.draw(learned.sampler, torch.rand(64, 16), labels), labels)
    guided = TokenSampling(guidance=3.0).draw(learned.sampler, torch.rand(64, 16), labels)
    assert log_likelihood(learned.sampler, guided, labels).mean() > plain.mean()


def test_memory_is_told_before_training_without_touching_anything(tmp_path):
    module = prior()
    fit(module, tmp_path, 8)
    before = weights(module).clone()
    need = module.memory_need(64, 3, 8)
    assert torch.equal(weights(module), before) and module.memory_need(128, 3, 8).activations > 1.9 * need.activations
    assert need.weights > 4 * 4 * sum(p.numel() for p in module.network.parameters())


def work(rank: int, port: int, folder: Path) -> None:
    """Train as one of two processes of Lightning's own DDP and keep the weights."""
    join(rank, port)
    os.environ["LIGHTNING_AVATARS_CACHE"] = str(folder / "cache")
    module = prior(conditional=True, label_dropout=0.3)
    fit(module, folder / f"run_{rank}", 160, devices=2, strategy="ddp", data=data(horizontal_flip=True))
    torch.save((weights(module), torch.from_numpy(module.codes.astype("int64"))), folder / f"{rank}.pt")


def test_two_processes_equal_one_and_share_the_work_of_computing_codes(tmp_path):
    start_two(work, tmp_path)
    alone = prior(conditional=True, label_dropout=0.3)
    begin = weights(alone).clone()
    fit(alone, tmp_path / "alone", 160, data=data(horizontal_flip=True))
    (first, codes), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second) and torch.equal(codes, others)
    assert torch.equal(codes, torch.from_numpy(alone.codes.astype("int64")))
    assert (weights(alone) - begin).abs().max() > 1e-2
    torch.testing.assert_close(first, weights(alone), rtol=1e-5, atol=1e-5)


def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(words, tmp_path):
    arguments = ["fit", "-c", PRIOR, "--model.first_stage", str(words), "--trainer.devices", "2", "--resume", "auto"]
    arguments += ["--run.images", "480", "--run.validate_every", "240", "--run.save_every", "40"]
    folders = killed_and_whole(arguments, tmp_path)
    states = [training_state(saved(folder)[-1]) for folder in folders]
    assert equal(*states) and states[0]["state_dict"]["_extra_state"]["images_seen"] == 480


def test_modules_without_words_are_no_first_stages():
    with pytest.raises(ValueError, match="first_stage holds a Adversarial of a TinyGenerator, which has no codebook"):
        Autoregressive(game())
    with pytest.raises(ValueError, match="first_stage holds a Autoencoding of a ConvolutionalAutoencoder"):
        Autoregressive(Autoencoding(ConvolutionalAutoencoder(8, width=4), Gaussian()))
    with pytest.raises(ValueError, match="first_stage holds a Recognition, which has no codebook"):
        Autoregressive(Recognition(RecognitionNet(16, 3, ["Red"], width=4)))
