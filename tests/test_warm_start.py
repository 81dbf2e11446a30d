"""A run starts from another one's weights, with its own clocks and optimizers, and parts of it stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_avatars.checkpoints import load_module, read_checkpoint
from lightning_avatars.cli import main
from lightning_avatars.families.recognition import Recognition
from lightning_avatars.networks.recognizer import RecognitionNet
from lightning_avatars.warm_start import freeze, start_from
from tests.conf.training import TINY, checkpoint_of, game

QUIET = ["--quality.enabled", "false", "--preview.every", "0", "--trainer.logger", "false"]
NETWORKS = ("generator.", "discriminator.", "average.")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint after some training, and its generator alone."""
    folder = tmp_path_factory.mktemp("source")
    checkpoint_of(folder, "--run.images", "40")
    path = folder / "checkpoints/images_000000040.ckpt"
    main(["export", "weights", str(path)])
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    state = read_checkpoint(path)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith(NETWORKS)}


def tuned(source: Path, *arguments: str) -> dict:
    """Train on other data from the source's weights and return the checkpoint."""
    other = ["--data.dataset.count", "60", "--run.images", "16"]
    main(["fit", "-c", TINY, *QUIET, *other, "--init_from", str(source), *arguments])
    return read_checkpoint(Path("runs/tiny/1/checkpoints/images_000000016.ckpt"))


STILL = ["--model.generator_optimizer.lr", "0", "--model.discriminator_optimizer.lr", "0"]


def test_weights_are_taken_clocks_are_at_zero_and_optimizers_fresh(source):
    saved = tuned(source, *STILL)
    state = saved["state_dict"]
    given = {name: tensor for name, tensor in tensors(source).items() if not name.startswith("average.")}
    assert given and all(torch.equal(state[name], tensor) for name, tensor in given.items())
    assert state["_extra_state"]["images_seen"] == 16 and state["_extra_state"]["turns"]["generator"] == 2
    assert saved["global_step"] == 2
    assert all(s["step"] == 2 for optimizer in saved["optimizer_states"] for s in optimizer["state"].values())


def test_averages_are_taken_too(source):
    module = game()
    start_from(module, source)
    state = module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors(source).items())
    assert module.images_seen == 0 and module.turns == {"discriminator": 0, "generator": 0}


def test_the_average_goes_on_where_it_was_instead_of_forgetting(source):
    state = tuned(source, *STILL)["state_dict"]  # two batches of 8 after 40 images, a share of 0.05 of which is kept
    assert state["_extra_state"]["images_before"] == 40
    given, raw = tensors(source)["average.average.hidden.weight"], tensors(source)["generator.hidden.weight"]
    kept = 1.0
    for seen in (48, 56):
        kept *= 0.5 ** (8 / (seen * 0.05))
    torch.testing.assert_close(state["average.average.hidden.weight"], raw + kept * (given - raw), rtol=1e-5, atol=1e-7)


def test_a_run_from_other_weights_is_another_run(source):
    warm = tuned(source)["state_dict"]
    main(["fit", "-c", TINY, *QUIET, "--data.dataset.count", "60", "--run.images", "16"])
    cold = read_checkpoint(Path("runs/tiny/2/checkpoints/images_000000016.ckpt"))["state_dict"]
    assert not torch.equal(warm["generator.image.weight"], cold["generator.image.weight"])


def test_an_exported_generator_is_taken_and_the_rest_is_new(source):
    exported = source.with_suffix(".safetensors")
    with pytest.warns(UserWarning, match="holds a generator alone"):
        state = tuned(exported, *STILL)["state_dict"]
    given = tensors(source)
    for name in (name for name in given if name.startswith("average.average.")):
        short = name.removeprefix("average.average.")
        assert torch.equal(state[f"generator.{short}"], given[name])
        torch.testing.assert_close(state[name], given[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(state["discriminator.conv.weight"], given["discriminator.conv.weight"])
    assert state["_extra_state"]["images_seen"] == 16


def test_an_interrupted_run_goes_on_from_its_own_weights(source):
    tuned(source)
    arguments = ["fit", "-c", TINY, *QUIET, "--data.dataset.count", "60", "--init_from", str(source)]
    main([*arguments, "--run.images", "32", "--resume", "auto"])
    gone_on = tensors(Path("runs/tiny/1/checkpoints/images_000000032.ckpt"))
    main([*arguments, "--run.images", "32"])
    whole = tensors(Path("runs/tiny/2/checkpoints/images_000000032.ckpt"))
    assert all(torch.equal(gone_on[name], whole[name]) for name in whole)


@pytest.mark.parametrize("kind", ["checkpoint", "exported"])
def test_shapes_that_do_not_fit_are_named(source, kind, capsys):
    path = source if kind == "checkpoint" else source.with_suffix(".safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", TINY, *QUIET, "--data.resolution", "16", "--init_from", str(path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert "generator.hidden.weight is [256, 8] there and [1024, 8] here" in said and "data.resolution" in said
    assert not Path("runs/tiny/1").exists()


def test_parts_that_only_one_side_has_are_named(source):
    with pytest.raises(ValueError, match=r"average\.average\.norm\.bias is not there.* and 8 more"):
        start_from(game(normalized=True), source)
    with pytest.raises(ValueError, match=r"average\.\S+ is not here"):
        start_from(game(average_half_life=None), source)


def test_a_file_that_is_not_there_is_named(capsys):
    for name in ("none.ckpt", "none.safetensors"):
        with pytest.raises(SystemExit):
            main(["fit", "-c", TINY, *QUIET, "--init_from", name])
        assert f"at {name}" in capsys.readouterr().err


def test_frozen_parts_stay_bit_for_bit_and_the_others_learn(source):
    state = tuned(source, "--freeze", "[discriminator.conv, generator.hidden.bias]")["state_dict"]
    given = tensors(source)
    frozen = {"discriminator.conv.weight", "discriminator.conv.bias", "generator.hidden.bias"}
    trained = {name for name in given if name.startswith(("generator.", "discriminator.")) and given[name].dim()}
    assert frozen < trained
    for name in trained:
        assert torch.equal(state[name], given[name]) == (name in frozen), name


def test_frozen_parts_stay_frozen_where_a_run_goes_on():
    arguments = ["fit", "-c", TINY, *QUIET, "--freeze", "[discriminator.conv]"]
    main([*arguments, "--run.images", "32"])
    first = tensors(Path("runs/tiny/1/checkpoints/images_000000032.ckpt"))
    main([*arguments, "--resume", "auto"])
    second = tensors(Path("runs/tiny/1/checkpoints/images_000000064.ckpt"))
    assert torch.equal(first["discriminator.conv.weight"], second["discriminator.conv.weight"])
    assert not torch.equal(first["discriminator.fine.weight"], second["discriminator.fine.weight"])
    main(arguments)
    whole = tensors(Path("runs/tiny/2/checkpoints/images_000000064.ckpt"))
    assert all(torch.equal(second[name], whole[name]) for name in whole)


def test_a_wrong_name_lists_the_nearest(capsys):
    with pytest.raises(ValueError, match=r"freeze names 'discriminator\.cnv'.* nearest are discriminator\.conv"):
        freeze(game(), ["discriminator.cnv"])
    with pytest.raises(ValueError, match="freeze names 'gen'"):  # a part, and not the beginning of a word
        freeze(game(), ["gen"])


def test_a_single_parameter_can_be_frozen_and_most_of_a_player():
    module = game()
    freeze(module, ["generator.image.bias", "discriminator.conv", "discriminator.fine"])
    fixed = {name for name, p in module.named_parameters() if not p.requires_grad and "average" not in name}
    assert fixed == {
        "generator.image.bias",
        *(f"discriminator.{layer}.{name}" for layer in ("conv", "fine") for name in ("weight", "bias")),
    }


def test_a_player_with_nothing_left_to_train_is_refused_in_a_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", TINY, *QUIET, "--freeze", "[discriminator]"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    assert "error: freeze discriminator leaves nothing to train" in said and not Path("runs/tiny/1").exists()


def test_a_module_with_nothing_left_to_train_is_refused():
    network = RecognitionNet(resolution=32, channels=3, label_names=["a"], width=4)
    with pytest.raises(ValueError, match="freeze network leaves nothing to train"):
        freeze(Recognition(network), ["network"])


def test_optimizers_with_other_faults_say_their_own():
    with pytest.raises(ValueError, match="Invalid learning rate"):
        freeze(game(generator_optimizer=lambda p: torch.optim.Adam(p, -1.0)), ["generator.image"])


def test_an_exported_generator_samples_what_its_checkpoint_does(source):
    seeds = torch.arange(4)
    pair = [load_module(path).sample(seeds) for path in (source, source.with_suffix(".safetensors"))]
    assert torch.equal(*pair)
