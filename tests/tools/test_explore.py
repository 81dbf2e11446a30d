"""Sheets and films of latent spaces, from checkpoints alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.images import to_bytes
from tests.conf.training import checkpoint_of

STYLES = {
    "class_path": "lightning_avatars.networks.stylegan2.StyleGAN2Generator",
    "init_args": {"width": 4, "max_width": 8, "latent_dim": 8, "style_dim": 8},
}


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
    prior = {
        "class_path": "lightning_avatars.latents.Codes",
        "init_args": {"noise": 3, "categorical": [3], "continuous": 2},
    }
    return checkpoint_of(tmp_path_factory.mktemp("coded"), "--model.prior", str(prior))


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
    names += ["mixing_coarse", "mixing_fine", "mixing_middle", "principal", "truncation"]
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


def test_attributes_and_named_labels_of_conditional_models(conditional):
    arguments = ["--ways", "[attributes]", "--rows", "2", "--video", "none"]
    main(["explore", str(conditional), *arguments])
    names = load_module(conditional).label_names
    assert len(written()) == len({name.partition("=")[0] for name in names})
    for path in written():
        found = cells(path.removesuffix(".png"))
        assert len(found) == 2 and (found[:, 0] != found[:, 1]).any()


def test_codes_have_a_sheet_each(coded):
    main(["explore", str(coded), "--ways", "[codes]", "--rows", "2", "--steps", "5", "--video", "none"])
    assert written() == ["code_0.png", "code_1.png", "code_2.png"]
    assert cells("code_0").shape[:2] == (2, 3) and cells("code_1").shape[:2] == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ways", "[truncation]"], "TinyGenerator of .* has no truncation: Each row goes from the mean style"),
        (["--steps", "1"], "rows and frames must be at least 1 and steps 2, got 6, 24 and 1"),
        (["--labels", "a=b"], "was trained without labels, so that it can't obey 'a=b'"),
    ],
)
def test_what_leads_nowhere_is_said(plain, capsys, arguments, message):
    import re

    with pytest.raises(SystemExit) as stop:
        main(["explore", str(plain), *arguments])
    assert stop.value.code == 2 and re.search(message, " ".join(capsys.readouterr().err.split()))
