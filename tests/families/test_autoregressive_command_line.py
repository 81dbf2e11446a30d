"""A prior on the command line: how codes are drawn, and what is no first stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.checkpoints import load_module
from lightning_avatars.cli import main
from lightning_avatars.images import to_bytes
from lightning_avatars.networks.sequence import TokenSampling
from tests.conf.training import checkpoint_of
from tests.conf.words import PRIOR, first_stage_file


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A first stage's checkpoint."""
    return first_stage_file(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def drawn_from(words, tmp_path_factory) -> Path:
    """A prior's checkpoint, that draws from the five likeliest words."""
    folder = tmp_path_factory.mktemp("prior")
    arguments = ["--model.first_stage", str(words), "--model.sampling.top_k", "5", "--run.save_every", "0"]
    main(["fit", "-c", PRIOR, "--trainer.default_root_dir", str(folder), *arguments])
    return folder / "checkpoints/images_000000064.ckpt"


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ([], {}),
        (["--temperature", "0.5"], {"temperature": 0.5}),
        (["--top_k", "1", "--nucleus", "0.9"], {"top_k": 1, "nucleus": 0.9}),
    ],
)
def test_the_command_line_says_how_codes_are_drawn_and_the_rest_is_as_configured(drawn_from, tmp_path, asked, used):
    main(["sample", str(drawn_from), "--count", "6", "--output", str(tmp_path / "drawn"), *asked])
    module = load_module(drawn_from)
    assert module.sampling.top_k == 5
    module.sampling = TokenSampling(**{"top_k": 5} | used)
    for seed, image in enumerate(to_bytes(module.sample(torch.arange(6)))):
        with Image.open(tmp_path / f"drawn/seed_{seed:06d}.png") as picture:
            assert torch.equal(torch.from_numpy(np.array(picture)).permute(2, 0, 1), image)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--temperature", "0"], "temperature must be above 0, got 0.0"),
        (["--top_k", "0"], "top_k must be at least 1"),
        (["--nucleus", "1.5"], "nucleus is a probability in (0, 1], got 1.5"),
        (["--guidance", "2"], "guidance is 2.0, which needs a network that learns to draw without labels too"),
        (["--truncation_psi", "0.5"], "has no truncation: leave truncation_psi at 1, and set temperature, top_k or"),
    ],
)
def test_ways_to_draw_codes_that_make_no_sense_are_refused_in_a_line(drawn_from, tmp_path, capsys, asked, message):
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(drawn_from), "--output", str(tmp_path / "drawn"), *asked])
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert stop.value.code == 2 and message in error and not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("what", ["gan", "missing"])
def test_a_checkpoint_of_another_family_and_one_that_is_missing_are_refused_in_a_line(what, tmp_path, capsys):
    path, said = tmp_path / "none.ckpt", "there is no checkpoint at "
    if what == "gan":
        path, said = checkpoint_of(tmp_path / "gan"), "holds a Adversarial of a TinyGenerator, which has no codebook"
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(
            ["fit", "-c", PRIOR, "--trainer.default_root_dir", str(tmp_path / "run"), "--model.first_stage", str(path)]
        )
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and str(path) in error


@pytest.mark.parametrize("model", [["-c", PRIOR], ["--model", "vqgan_prior", "--data", "avatars32"]])
def test_without_a_first_stage_a_line_says_how_to_give_one(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", *model])
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert stop.value.code == 2 and "give --model.first_stage a checkpoint or exported weights" in error
    assert not list(tmp_path.glob("runs/*/*"))
