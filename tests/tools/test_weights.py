"""The table of weights, and fetching by name."""

import hashlib
from dataclasses import replace

import pytest
from jsonargparse import ArgumentParser

import lightning_avatars.metrics.extractors.vision_transformers as transformers
import lightning_avatars.metrics.weights as published
from lightning_avatars.metrics.weights import INCEPTION, Weights
from lightning_avatars.tools import weights as tool
from lightning_avatars.tools.weights import KNOWN, named, state, weights


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path / "weights"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Serve something small in place of Inception."""
    (tmp_path / "served").write_bytes(b"small")
    address, sha256 = (tmp_path / "served").as_uri(), hashlib.sha256(b"small").hexdigest()
    fake = replace(INCEPTION, address=address, sha256=sha256)
    monkeypatch.setattr(tool, "KNOWN", (fake, *KNOWN[1:]))
    return fake


def test_all_published_weights_are_known_by_a_name_of_their_own():
    constants = {v for module in (published, transformers) for v in vars(module).values() if isinstance(v, Weights)}
    assert set(KNOWN) == constants
    assert len({known.name for known in KNOWN}) == len({known.file for known in KNOWN}) == len(KNOWN)


def test_the_table_says_what_is_there_what_is_damaged_and_what_is_absent(folder, capsys):
    folder.mkdir()
    (folder / INCEPTION.file).write_bytes(b"half of it")
    weights()
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if len(line.split()) > 5}
    assert "damaged" in lines["inception"]
    assert "fid, kid, is" in lines["inception"]
    assert "absent, put it there by hand" in lines["inception-features"]
    assert "by hand" not in lines["alexnet"]


def test_weights_are_fetched_by_name_even_over_damaged_ones(fake, folder, capsys):
    folder.mkdir()
    (folder / fake.file).write_bytes(b"half of it")
    assert state(fake) == "damaged"
    weights("inception")
    assert state(fake) == "present"
    assert (folder / fake.file).read_bytes() == b"small"
    assert "present" in capsys.readouterr().out


def test_weights_that_are_there_are_not_fetched_again(fake, folder, tmp_path):
    weights(["inception"])
    (tmp_path / "served").unlink()
    weights(["inception"])
    assert state(fake) == "present"


def test_an_unknown_name_fetches_nothing_and_is_answered_with_the_nearest(fake, folder):
    with pytest.raises(ValueError, match=r"no weights are called 'incepton'; there are inception"):
        weights("inception, incepton")
    assert not folder.exists()
    assert named("vgg16").file == "vgg16-397923af.pth"


@pytest.mark.parametrize("given", ["inception", "[inception]", "inception,alexnet"])
def test_names_are_read_from_the_command_line(given):
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_function_arguments(weights, as_group=False, as_positional=True)
    assert parser.parse_args(["--fetch", given]).fetch in ("inception", ["inception"], "inception,alexnet")
