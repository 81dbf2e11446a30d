"""Sheets and films of latent spaces, from checkpoints alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.encoding import Encoded
from lightning_avatars.families.autoencoder import Autoencoding
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.networks.convolutional import ConvolutionalAutoencoder, QuantizedConvolutionalAutoencoder
from lightning_avatars.networks.ladder import LadderAutoencoder
from lightning_avatars.networks.layers.bottlenecks import DiagonalGaussian, Plain
from lightning_avatars.networks.layers.quantizers import FiniteScalarQuantizer, VectorQuantizer
from lightning_avatars.networks.mlp_autoencoder import MLPAutoencoder
from lightning_avatars.networks.stylegan2 import Noise
from lightning_avatars.objectives.likelihoods import Gaussian
from lightning_avatars.tools.explore import Look, film, interpolation, noise
from tests.conf.encoding import encoding_checkpoint
from tests.conf.training import STYLES, checkpoint_of


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("styles"), "--model.generator", str(STYLES))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("conditional"), "--model.conditional", "true")


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    small = ["--data.resolution", "16", "--model.generator.width", "2", "--model.generator.latent_dim", "8"]
    codes = {"noise": 3, "categorical": [3], "continuous": 2}
    return checkpoint_of(
        tmp_path_factory.mktemp("coded"), "--model", "infogan", *small, "--model.discriminator.width", "2",
        *(f"--model.prior.init_args.{name}={number}" for name, number in codes.items()),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cells(name: str, size: int = 8) -> np.ndarray:
    """Cut a sheet into its pictures: rows, columns, height, width, channels."""
    with Image.open(f"explored/{name}.png") as picture:
        sheet = np.array(picture)
    step = size + 2
    rows, columns = sheet.shape[0] // step, sheet.shape[1] // step
    return np.stack(
        [[sheet[2 + y * step :, 2 + x * step :][:size, :size] for x in range(columns)] for y in range(rows)]
    )


def drawn(checkpoint: Path, *seeds: int) -> np.ndarray:
    return to_bytes(load_module(checkpoint).sample(torch.tensor(seeds))).permute(0, 2, 3, 1).numpy()


def written() -> list[str]:
    return sorted(path.name for path in Path("explored").iterdir())


def test_rows_lead_from_one_seed_to_the_next_and_a_film_goes_round(plain):
    main(["explore", str(plain), "--rows", "3", "--steps", "5", "--frames", "4"])
    assert written() == ["film.gif", "interpolation_linear.png", "interpolation_spherical.png"]
    for way in ("linear", "spherical"):
        found = cells(f"interpolation_{way}")
        assert found.shape == (3, 5, 8, 8, 3)
        assert (found[:, 0] == drawn(plain, 0, 1, 2)).all() and (found[:, -1] == drawn(plain, 1, 2, 0)).all()
        assert (found[:, 2] != found[:, 0]).any()
    with Image.open("explored/film.gif") as film:
        assert film.n_frames == 12


def test_styles_can_be_truncated_mixed_and_moved_along_directions(styles):
    main(["explore", str(styles), "--rows", "2", "--steps", "4", "--video", "none", "--seed", "7"])
    names = ["factorisation", "interpolation_linear", "interpolation_spherical"]
    names += ["mixing_coarse", "mixing_fine", "mixing_middle", "noise", "principal", "truncation"]
    assert written() == [f"{name}.png" for name in names]
    truncated = cells("truncation")
    assert (truncated[:, -1] == drawn(styles, 7, 8)).all()
    assert (truncated[0, 0] == truncated[1, 0]).all(), "psi = 0 is the mean style"
    for part in ("coarse", "middle", "fine"):
        mixed = cells(f"mixing_{part}")
        assert (mixed[0, 0] == 255).all() and mixed.shape[:2] == (3, 4)
        assert (mixed[1:, 0] == drawn(styles, 7, 8)).all() and (mixed[0, 1:] == drawn(styles, 9, 10, 11)).all()
    moved = cells("factorisation")
    assert moved.shape[:2] == (2, 4) and (moved[0] != moved[1]).any()


def test_noise_is_the_networks_own_none_or_new(styles):
    module = load_module(styles)
    for part in module.modules():
        if isinstance(part, Noise):
            torch.nn.init.ones_(part.strength)
    look = Look(module, torch.arange(3), 5, 3.0, None)
    with torch.no_grad():
        found, again = noise(look)["noise"], noise(look)["noise"]
        own, others = to_bytes(module.sample(torch.arange(3))), noise(replace(look, seeds=torch.arange(1, 4)))["noise"]
    assert found.shape[:2] == (3, 5) and torch.equal(found, again) and torch.equal(found[:, 0], own)
    assert len({column.numpy().tobytes() for column in found.unbind(1)}) == 5
    assert torch.equal(found[1:, :2], others[:2, :2]) and not torch.equal(found[1:, 2:], others[:2, 2:])


def test_attributes_and_named_labels_of_conditional_models(conditional):
    arguments = ["--ways", "[attributes]", "--rows", "2", "--video", "none"]
    main(["explore", str(conditional), *arguments])
    names = load_module(conditional).label_names
    assert len(written()) == len({name.partition("=")[0] for name in names})
    for path in written():
        found = cells(path.removesuffix(".png"))
        assert len(found) == 2 and (found[:, 0] != found[:, 1]).any()


def test_labels_may_be_left_out_where_they_were_in_training(conditional, tmp_path):
    with pytest.raises(SystemExit):
        main(["explore", str(conditional), "--labels", "none"])
    dropped = checkpoint_of(tmp_path, "--model.conditional", "true", "--model.label_dropout", "0.5")
    main(["explore", str(dropped), "--ways", "[interpolation]", "--rows", "2", "--labels", "none", "--video", "none"])
    module = load_module(dropped)
    first = to_bytes(module.sample(torch.tensor([0]), torch.zeros(1, len(module.label_names))))
    assert (cells("interpolation_linear")[0, 0] == first[0].permute(1, 2, 0).numpy()).all()


def test_codes_have_a_sheet_each(coded):
    main(["explore", str(coded), "--ways", "[codes]", "--rows", "2", "--steps", "5", "--video", "none"])
    assert written() == ["code_0.png", "code_1.png", "code_2.png"]
    assert cells("code_0", 16).shape[:2] == (2, 3) and cells("code_1", 16).shape[:2] == (2, 5)


def test_autoencoders_have_sheets_of_pictures_directions_and_attributes(tmp_path):
    main(["explore", str(encoding_checkpoint(tmp_path / "a.ckpt")), "--rows", "2", "--steps", "5", "--video", "none"])
    names = ["interpolation_linear", "pictures", "traversal"]
    names += ["vector_colour=blue", "vector_colour=red", "vector_large"]
    assert written() == [f"{name}.png" for name in names]


def lines(a: torch.Tensor, frames: int = 4) -> torch.Tensor:
    """Go round three latents in straight lines."""
    t = torch.arange(frames)[:, None] / frames
    return torch.cat([a[i] + (a[(i + 1) % 3] - a[i]) * t for i in range(3)])


BOTTLENECKS = {
    "normal": (lambda: ConvolutionalAutoencoder(8, bottleneck=DiagonalGaussian(4), width=4), True),
    "plain": (lambda: ConvolutionalAutoencoder(8, bottleneck=Plain(4), width=4), False),
    "layers": (lambda: MLPAutoencoder(8, bottleneck=DiagonalGaussian(4), width=8), True),
    "plain layers": (lambda: MLPAutoencoder(8, bottleneck=Plain(4), width=8), False),
    "words": (lambda: QuantizedConvolutionalAutoencoder(VectorQuantizer(8, 4), 8, grid=4, width=4), False),
    "levels": (lambda: QuantizedConvolutionalAutoencoder(FiniteScalarQuantizer((5, 5)), 8, grid=4, width=4), False),
    "levels of a hierarchy": (lambda: LadderAutoencoder(8, width=4), True),
}


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_one_goes_along_a_sphere_only_where_latents_are_normal(name, monkeypatch):
    torch.manual_seed(0)
    make, normal = BOTTLENECKS[name]
    module, seen = Autoencoding(make(), Gaussian(), average_half_life=None), []
    for location in (buffer for name, buffer in module.named_buffers() if name.endswith("location")):
        location.fill_(0.5)
    look, decode = Look(module, torch.arange(3), 5, 1.0, None), module.decode
    monkeypatch.setattr(module, "decode", lambda z, labels: seen.append(z) or decode(z, labels))
    with torch.no_grad():
        assert ("interpolation_spherical" in interpolation(look)) == module.normal == normal
        seen.clear()
        assert len(film(look, 4)) == 12
        round_in_lines = lines(module.latents(look.seeds))
        assert torch.allclose(torch.cat(seen), round_in_lines, atol=1e-6) != normal
        noise = torch.randn(2, module.network.latent_dim)
        assert torch.equal(module.network.from_normal(noise), noise) == normal


def test_pictures_go_from_one_reconstruction_to_the_next_between_the_pictures_themselves(tmp_path):
    checkpoint = encoding_checkpoint(tmp_path / "a.ckpt")
    main(["explore", str(checkpoint), "--ways", "[pictures]", "--rows", "3", "--steps", "3", "--video", "none"])
    found, module = cells("pictures"), load_module(checkpoint)
    images, _ = Encoded(module).pictures("test", torch.arange(3))
    latents = module.encode(to_float(images))
    halfway = (latents + latents.roll(-1, 0)) / 2
    expected = [images, *(to_bytes(module.decode(z)) for z in (latents, halfway, latents.roll(-1, 0)))]
    expected.append(images.roll(-1, 0))
    assert (found == torch.stack(expected, 1).permute(0, 1, 3, 4, 2).numpy()).all()


def test_a_traversal_begins_with_the_entry_that_varies_most_and_moves_it_alone(tmp_path):
    checkpoint = encoding_checkpoint(tmp_path / "a.ckpt")
    main(["explore", str(checkpoint), "--ways", "[traversal]", "--rows", "3", "--steps", "3", "--video", "none"])
    found, encoded = cells("traversal").astype(int), Encoded(load_module(checkpoint))
    deviation, mean = encoded.moments.deviation, encoded.moments.mean
    order = deviation.argsort(descending=True)[:3].tolist()
    for row, entry in zip(found, order, strict=True):
        channel, square = divmod(entry, 4)
        changed = np.zeros((8, 8, 3), bool)
        changed[square // 2 * 4 :, square % 2 * 4 :, channel][:4, :4] = True
        assert ((row[0] != row[2]) == changed).all()
        assert abs(row[1][changed].mean() - float(mean[entry] + 1) * 127.5) <= 0.5
        step = min(255, float(mean[entry] + 3 * deviation[entry] + 1) * 127.5)
        assert abs(row[2][changed].mean() - step) <= 0.5


def test_a_named_vector_is_walked_by_halves(tmp_path):
    checkpoint = encoding_checkpoint(tmp_path / "a.ckpt")
    arguments = ["--ways", "[vectors]", "--attributes", "[colour=blue]", "--rows", "2", "--steps", "3", "--reach", "2"]
    main(["explore", str(checkpoint), *arguments, "--video", "none"])
    assert written() == ["vector_colour=blue.png"]
    module = load_module(checkpoint)
    encoded = Encoded(module)
    images, _ = encoded.pictures("test", torch.arange(2))
    latents, vector = module.encode(to_float(images)), encoded.vector("colour=blue")
    expected = [images, *(to_bytes(module.decode(latents + t * vector)) for t in (-1, 0, 1))]
    assert (cells("vector_colour=blue") == torch.stack(expected, 1).permute(0, 1, 3, 4, 2).numpy()).all()


def test_conditional_autoencoders_decode_with_each_pictures_labels_or_named_ones(tmp_path):
    checkpoint = encoding_checkpoint(tmp_path / "a.ckpt", conditional=True)
    arguments = ["--ways", "[pictures,traversal]", "--rows", "8", "--steps", "2", "--video", "none"]
    main(["explore", str(checkpoint), *arguments])
    module = load_module(checkpoint)
    images, labels = Encoded(module).pictures("test", torch.arange(8))
    assert 0 < labels[:, 2].sum() < 8
    plain = to_bytes(module.network.decode(module.network.encode(to_float(images))))  # labels cancel out
    found = cells("pictures").astype(int)
    assert abs(found[:, 1] - plain.permute(0, 2, 3, 1).numpy()).max() <= 1
    main(["explore", str(checkpoint), *arguments, "--labels", "large=1"])
    small = (labels[:, 2] == 0).numpy()
    brighter = cells("pictures").astype(int)[:, 1] - found[:, 1]
    assert (brighter[~small] == 0).all() and 12 <= brighter[small].max() <= 13  # 0.1 of a range of 2 is 12.75 bytes


def test_other_data_may_be_named_and_must_fit(tmp_path, capsys):
    checkpoint = encoding_checkpoint(tmp_path / "a.ckpt", data={"dataset": {"class_path": "tests.gone.Data"}})
    data = ["--data.dataset", "tests.conf.tiny.TinyFaces"]
    arguments = ["explore", str(checkpoint), "--ways", "[vectors]", "--rows", "1", "--video", "none"]
    main([*arguments, *data, "--data.resolution", "8"])
    assert len(written()) == 3
    with pytest.raises(SystemExit):
        main([*arguments, *data, "--data.resolution", "16"])
    assert "images of 3 x 8 x 8 (channels x height x width), but the data has 3 x 16 x 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ways", "[truncation]"], "TinyGenerator of .* has no truncation: Each row goes from the mean style"),
        (["--steps", "1"], "rows and frames must be at least 1 and steps 2, got 6, 24 and 1"),
        (["--ways", "[traversal]"], "TinyGenerator of .* has no traversal: Autoencoders: each row moves one entry"),
        (
            ["--attributes", "[large]"],
            "--attributes and -c are for models that encode pictures, but .* Adversarial",
        ),
        (["--labels", "a=b"], "was trained without labels, so that it can't obey 'a=b'"),
    ],
)
def test_what_leads_nowhere_is_said(plain, capsys, arguments, message):
    import re

    with pytest.raises(SystemExit) as stop:
        main(["explore", str(plain), *arguments])
    assert stop.value.code == 2 and re.search(message, " ".join(capsys.readouterr().err.split()))
