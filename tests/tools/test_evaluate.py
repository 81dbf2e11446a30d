"""Folders and checkpoints scored from the command line: known scores, pages to look at, clear refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_avatars.cli import main
from tests.conf.training import STYLES, checkpoint_of
from tests.conf.words import WORDS, first_stage_file

COUNT = 24


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Make smooth colours of its own for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def folder(path: Path, first: int = 0, count: int = COUNT) -> Path:
    """Write pictures to a new folder."""
    path.mkdir()
    for i in range(count):
        Image.fromarray(picture(first + i)).save(path / f"{i:02}.png")
    return path


def noisy(path: Path) -> Path:
    """Write the first folder's pictures, each with more noise than the one before."""
    path.mkdir()
    for i in range(COUNT):
        noise = np.random.default_rng(100 + i).normal(size=(32, 32, 3)) * 3 * i
        Image.fromarray((picture(i) + noise).clip(0, 255).astype(np.uint8)).save(path / f"{i:02}.png")
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders that no test changes."""
    work = tmp_path_factory.mktemp("folders")
    folder(work / "faces"), folder(work / "others", 50), folder(work / "more", 80), noisy(work / "noisy")
    shutil.copytree(work / "faces", work / "copy")
    return work


@pytest.fixture(autouse=True)
def here(folders, tmp_path, monkeypatch):
    """Work in a new folder from which the others are seen."""
    for path in folders.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("conditional"), "--model.conditional", "true")


def evaluate(*args: str) -> list[dict]:
    """Score by avatarnet and read what the tool wrote."""
    main(["evaluate", *args, "--extractors", "avatarnet", "--json", "scores.json"])
    return json.loads(Path("scores.json").read_text())["results"]


def values(result: dict) -> dict[str, float]:
    return {name.removesuffix(f"_{COUNT}"): score["value"] for name, score in result["scores"].items()}


def refused(args: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *args])
    said = capsys.readouterr().err
    (error,) = (line for line in said.splitlines() if line.startswith("error"))
    assert stop.value.code == 2 and re.search(message, error) and "Traceback" not in said


def test_a_folder_against_its_copy_is_at_distance_0_and_all_precise():
    (copied,), (apart,) = evaluate("faces", "--reference", "copy"), evaluate("faces", "--reference", "others")
    same, other = values(copied), values(apart)
    assert abs(same["fd_avatarnet"]) < 1e-6 * other["fd_avatarnet"]
    assert same["precision_avatarnet"] == same["recall_avatarnet"] == same["coverage_avatarnet"] == 1
    assert same["density_avatarnet"] == pytest.approx(1.2, abs=1e-9)  # 6 of 5: each ball also holds its own centre
    assert same["kd_avatarnet"] < other["kd_avatarnet"]


def test_a_folder_alone_is_compared_half_by_half():
    (result,) = evaluate("faces")
    passport = result["passport"]
    assert passport["images"] == passport["reference"]["images"] == COUNT // 2
    assert passport["reference"]["split"] == "the other half"
    assert passport["pictures"]["key"] != passport["reference"]["key"]
    assert set(result["scores"]) >= {"fd_avatarnet_12", "recall_avatarnet_12"}


def test_the_same_pictures_score_the_same_again():
    first, again = (evaluate("faces", "--reference", "others")[0]["scores"] for _ in range(2))
    assert first == again


def test_pictures_may_be_of_any_size(tmp_path):
    mixed = folder(tmp_path / "mixed", 0, COUNT - 3)
    Image.fromarray(picture(90, 40, 70)).save(mixed / "a.png")
    Image.fromarray(picture(91)[..., 0]).save(mixed / "b.png")
    Image.new("RGB", (1, 1), "red").save(mixed / "c.png")
    (result,) = evaluate("mixed", "--reference", "faces", "--output", "page")
    assert result["passport"]["images"] == COUNT and all(np.isfinite(list(values(result).values())))
    with Image.open("page/samples.png") as sheet:  # all brought to 128 pixels
        assert sheet.size == (8 * 130 + 2, 3 * 130 + 2)


def test_held_out_pictures_tell_the_floor_and_copies():
    (result,) = evaluate("copy", "--reference", "faces", "--held_out", "others")
    assert result["scores"]["fd_avatarnet_24"]["floor"] > 0
    assert result["scores"]["copied_24"]["value"] == 1
    (honest,) = evaluate("more", "--reference", "faces", "--held_out", "others")
    assert honest["scores"]["copied_24"]["value"] < 1


def test_pairs_are_scored_and_the_best_and_worst_are_shown_in_order():
    samples, pairs = evaluate("noisy", "--reference", "faces", "--pairs", "true", "--output", "page")
    assert (samples["set"], pairs["set"]) == ("samples", "pairs")
    errors = [((np.array(Image.open(f"noisy/{i:02}.png")) - picture(i).astype(float)) / 255) ** 2 for i in range(COUNT)]
    assert pairs["scores"]["mse_24"]["value"] == pytest.approx(np.mean(errors), rel=1e-5)
    order = np.argsort([error.mean() for error in errors]).tolist()
    page = Path("page/index.html").read_text()
    for kind, places in (("best", order[:8]), ("worst", order[:-9:-1])):
        with Image.open(f"page/{kind}_pairs.png") as sheet:
            shown = np.array(sheet)
        assert shown.shape == (2 * 130 + 2, 8 * 130 + 2, 3)
        for column, place in enumerate(places):
            left = 2 + 130 * column
            for row, path in enumerate((f"faces/{place:02}.png", f"noisy/{place:02}.png")):
                cell = shown[2 + 130 * row : 130 + 130 * row, left : left + 128][::4, ::4]
                assert (cell == np.array(Image.open(path))).all(), (kind, place, path)
        assert f'src="{kind}_pairs.png"' in page
    assert page.count("<span>should be</span><span>is</span>") == 2


def test_a_page_shows_every_sheet_and_each_copy_above_what_it_was_copied_from():
    evaluate("copy", "--reference", "faces", "--output", "new/page")
    page = Path("new/page/index.html").read_text()
    assert "<h1>copy against faces</h1>" in page and "The first 24 of 24" in page
    sheets = {path.name for path in Path("new/page").glob("*.png")}
    assert sheets == {"samples.png", "nearest_neighbours.png"} == set(re.findall(r'src="([^"]+)"', page))
    with Image.open("new/page/nearest_neighbours.png") as sheet:
        shown = np.array(sheet)
    assert shown.shape[0] == 4 * 130 + 2
    for row in (0, 2):
        top = 2 + 130 * row
        assert (shown[top : top + 128] == shown[top + 130 : top + 258]).all()


def test_few_pictures_still_stand_above_their_neighbours(tmp_path):
    folder(tmp_path / "few", 0, 11)
    evaluate("few", "--reference", "faces", "--output", "page")
    with Image.open("page/nearest_neighbours.png") as sheet:
        shown = np.array(sheet)
    assert shown.shape == (2 * 130 + 2, 8 * 130 + 2, 3) and (shown[2:130] == shown[132:260]).all()


def test_some_pictures_are_taken_in_an_order_of_chance():
    (result,) = evaluate("faces", "--reference", "others", "--images", "12")
    assert result["passport"]["images"] == 12
    main(["evaluate", "faces", "--reference", "others", "--images", "12", "--extractors", "avatarnet", "--output", "p"])
    with Image.open("p/samples.png") as sheet:
        last = np.array(sheet)[36:68, 2 + 34 * 3 : 34 + 34 * 3]
    order = np.random.default_rng(0).permutation(COUNT)
    assert (last == picture(order[11])).all()


def test_a_conditional_checkpoint_gets_a_row_of_samples_for_each_value(conditional):
    results = evaluate(str(conditional), "--images", "20", "--output", "page")
    assert [result["set"] for result in results] == ["samples"]
    assert results[0]["images_seen"] == 8 and results[0]["passport"]["seeds"] == [0, 19]
    page = Path("page/index.html").read_text()
    assert "<span>red</span><span>blue</span>" in page and "<span>no</span><span>yes</span>" in page
    for group in ("colour", "large"):
        with Image.open(f"page/samples_by_{group}.png") as sheet:
            assert sheet.size == (8 * 10 + 2, 2 * 10 + 2)
            rows = torch.from_numpy(np.array(sheet)).unfold(0, 10, 10)
        assert not torch.equal(rows[0], rows[1])


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A variational autoencoder's folder, with the scores of a test in it."""
    run = tmp_path_factory.mktemp("autoencoder")
    network = ["--model.network", "lightning_avatars.networks.convolutional.ConvolutionalAutoencoder"]
    network += ["--model.network.resolution", "8", "--model.network.width", "4"]
    arguments = ["-c", WORDS, *network, "--trainer.default_root_dir", str(run), "--likelihood.samples", "2"]
    main(["fit", *arguments])
    main(["test", *arguments, "--ckpt_path", str(run / "checkpoints/images_000000008.ckpt")])
    return run


def test_how_likely_held_out_pictures_are_is_scored_as_a_test_does(autoencoder, capsys):
    tested = json.loads((autoencoder / "results.json").read_text())["results"]
    (expected,) = (one for one in tested if (one["set"], one["stage"]) == ("likelihood", "test"))
    path = str(autoencoder / "checkpoints/images_000000008.ckpt")
    samples, reconstruction, found = evaluate(path, "--likelihood_samples", "2")
    assert [samples["set"], reconstruction["set"], found["set"]] == ["samples", "reconstruction", "likelihood"]
    assert {"nll_elbo", "nll_iwae2", "bpd_elbo", "bpd_iwae2", "rate"} == {name[:-3] for name in found["scores"]}
    assert (found["scores"], found["passport"]) == (expected["scores"], expected["passport"])
    assert "bpd_iwae2" in capsys.readouterr().out


def test_words_that_held_out_pictures_use_are_counted(tmp_path):
    *_, found = evaluate(str(first_stage_file(tmp_path / "words")))
    assert found["set"] == "likelihood" and {"perplexity", "codes_used"} == {name[:-3] for name in found["scores"]}


def test_how_smoothly_a_generator_draws_is_measured_on_request(conditional, tmp_path, capsys):
    asked = [str(conditional), "--images", "20", "--extractors", "avatarnet", "--smoothness", "10"]
    refused(asked, "path lengths are perceptual distances: give --perceptual too", capsys)
    small = {"layers": 4, "width": 4, "max_width": 8, "latent_dim": 4, "style_dim": 4}
    network = {"class_path": "lightning_avatars.networks.stylegan3.StyleGAN3Generator", "init_args": small}
    styles = checkpoint_of(tmp_path, "--data.resolution", "32", "--model.generator", str(network))
    samples, smoothness = evaluate(str(styles), *asked[1:])
    assert samples["set"] == "samples" and smoothness["set"] == "smoothness" and smoothness["passport"]["images"] == 10
    assert list(smoothness["scores"]) == ["eq_t_10", "eq_t_frac_10", "eq_r_10"]


def test_truncation_that_can_not_be_is_refused_before_any_picture_is_read(conditional, tmp_path, monkeypatch, capsys):
    styles = checkpoint_of(tmp_path, "--model.generator", str(STYLES))
    monkeypatch.setattr("lightning_avatars.tools.evaluate.prepare", lambda data: pytest.fail("pictures were read"))
    for path, psi, message in (
        (styles, "1.5", "truncation_psi must be from 0 .* got 1.5"),
        (conditional, "0.5", "TinyGenerator has no truncation"),
    ):
        refused([str(path), "--truncation_psi", psi], message, capsys)


def test_json_for_the_screen_is_nothing_but_json(capsys):
    main(["evaluate", "faces", "--extractors", "avatarnet", "--json", "-"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == 2
    assert "fd_avatarnet_12" in captured.err


def test_the_table_says_what_was_compared_with_what(capsys):
    main(["evaluate", "faces", "--reference", "others", "--extractors", "[avatarnet]"])
    said = capsys.readouterr()
    assert "samples: 24 against 24 of others" in said.out and "precision_avatarnet_24" in said.out
    assert "JPEG" not in said.err


def test_jpegs_against_none_are_warned_of_in_a_line(tmp_path, capsys):
    (tmp_path / "jpegs").mkdir()
    for i in range(COUNT):
        Image.fromarray(picture(i)).save(tmp_path / f"jpegs/{i:02}.jpg")
    for args in (["jpegs", "--reference", "faces"], ["faces", "--reference", "jpegs"]):
        main(["evaluate", *args, "--extractors", "avatarnet"])
        lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert lines == [
            "warning: jpegs has JPEGs, faces has none: scores will also tell JPEG's artefacts. Save both the same way"
        ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "no checkpoint, folder or zip at nowhere"),
        (["faces", "--images", "9"], "at least 10 images .* only 9 are to be scored"),
        (["faces", "--images", "-1"], "at least 10 images .* only -1 are to be scored"),
        (["faces", "--reference", "others", "--images", "25"], "faces has 24 pictures to score, --images asks for 25"),
        (["faces", "--held_out", "others"], "--held_out goes with --reference"),
        (["faces", "--pairs", "true"], "--pairs compares .* give both"),
        (["faces", "--truncation_psi", "0.7"], "--truncation_psi is for a checkpoint"),
        (["faces", "--likelihood_samples", "2"], "--likelihood_samples is for a checkpoint that knows likelihoods"),
        (["faces", "--likelihood_samples", "0"], "--likelihood_samples must be at least 1, got 0"),
        (["faces", "--smoothness", "20"], "of GANs, whose generators draw from latents, and a folder is none"),
        (["faces", "--reference", "others", "-c", "avatars32"], "with --reference or with the data that -c names"),
        (["faces", "--reference", "nowhere"], "no folder or zip at nowhere"),
        (["faces", "--output", "faces/00.png"], "--output faces/00.png is a file"),
        (["faces", "--json", "faces"], "--json faces is a folder"),
        (["faces", "--device", "gpu"], "--device gpu can't be used"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(args, message, capsys):
    refused([*args, "--extractors", "avatarnet"], message, capsys)


def test_an_unknown_extractor_is_answered_with_the_nearest(capsys):
    refused(["faces", "--extractors", "avatarnt"], "'avatarnt' is no file .* avatarnet", capsys)


def test_inception_without_weights_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNING_AVATARS_CACHE", str(tmp_path / "cache"))
    refused(["faces"], "no weights at .* run `lightning-avatars weights --fetch inception`", capsys)


def test_a_folder_too_small_for_halves_says_what_else_to_do(tmp_path, capsys):
    folder(tmp_path / "one", 0, 1)
    refused(["one", "--extractors", "avatarnet"], "one has 1 pictures, .* at least 20.* by --reference or -c", capsys)


def test_files_that_are_neither_pictures_nor_checkpoints_are_named(tmp_path, capsys):
    bad = folder(tmp_path / "bad")
    (bad / "notes.png").write_text("hello")
    refused(["bad", "--extractors", "avatarnet"], "notes.png in bad cannot be read: not a picture", capsys)
    Path("notes.ckpt").write_text("hello")
    refused(["notes.ckpt"], "notes.ckpt can't be read as a checkpoint", capsys)
    Path("notes.zip").write_text("hello")
    refused(["notes.zip", "--extractors", "avatarnet"], "notes.zip is neither a folder nor a readable zip", capsys)


def test_pairs_of_two_sizes_name_the_picture(tmp_path, capsys):
    shutil.copytree("faces", tmp_path / "cut")
    Image.fromarray(picture(5, 32, 30)).save(tmp_path / "cut/05.png")
    args = ["cut", "--reference", "faces", "--pairs", "true", "--extractors", "avatarnet"]
    refused(args, "05.png is 30 x 32 and 32 x 32 pixels", capsys)
