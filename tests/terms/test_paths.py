"""Path lengths of a linear synthesis against their closed form, and the sameness of chunks and processes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lightning_avatars.families.adversarial import LatentStep
from lightning_avatars.networks.style import Mapping, NoiseMode, StyleGenerator
from lightning_avatars.networks.stylegan2 import StyleGAN2Generator
from lightning_avatars.seeding import Draws
from lightning_avatars.terms import paths
from lightning_avatars.terms.paths import PathLength, path_lengths
from tests.conf.training import fit, game, weights
from tests.terms.test_gradients import kinds_of


class Linear(StyleGenerator):
    """Images that are linear in two layers' styles."""

    def __init__(self, label_dim: int = 0) -> None:
        super().__init__(Mapping(4, 5, label_dim, 1), 4, 5, label_dim, styles=2)
        self.maps = nn.Parameter(torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(0)))

    def synthesis(self, styles: Tensor, noise: NoiseMode = "random") -> Tensor:
        return torch.einsum("nlw,lwp->np", styles, self.maps).view(-1, 3, 8, 8)


def turn(module, start: int = 0, stop: int = 6, total: int = 6) -> LatentStep:
    """A generator's turn on some images of a batch, ready for one term."""
    batch = {"image": torch.zeros(stop - start, 3, 8, 8), "labels": torch.rand(total, 3)[start:stop]}
    return LatentStep(module, batch, Draws(0, 0, total, start, stop, torch.device("cpu")), "generator")


def expected(generator: Linear, direction: Tensor) -> Tensor:
    back = torch.einsum("np,lwp->nlw", direction.flatten(1) / 8, generator.maps)
    return back.square().sum(2).mean(1).sqrt()


def test_lengths_of_a_linear_synthesis():
    generator, direction = Linear(), torch.randn(4, 3, 8, 8)
    styles = torch.randn(4, 2, 5, requires_grad=True)
    lengths = path_lengths(generator.synthesis(styles), styles, direction)
    torch.testing.assert_close(lengths, expected(generator, direction))


@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_the_loss_is_the_squared_distance_to_the_mean_over_some_images(shrink):
    module, term = game(generator=Linear()), PathLength(shrink=shrink)
    term.mean.fill_(0.3)
    step = turn(module)
    lengths = expected(module.generator, step.draws.normal("path_length", 3, 8, 8)[::shrink])
    torch.testing.assert_close(term(step), (lengths - 0.3).square().mean())
    (slope,) = torch.autograd.grad(term(step), module.generator.maps)
    (closed,) = torch.autograd.grad((lengths - 0.3).square().mean(), module.generator.maps)
    torch.testing.assert_close(slope, closed)


def test_its_convolutions_are_made_to_be_differentiated_twice():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(8, latent_dim=4, style_dim=4, width=4, max_width=4)
    names = kinds_of(PathLength()(turn(game(generator=generator))).grad_fn)
    assert "ConvolutionBackward" in names and "ConvolutionBackward0" not in names


def test_the_mean_follows_the_lengths_after_the_step_and_not_before():
    module, term = game(generator=Linear()), PathLength(decay=0.9)
    step = turn(module)
    first = term(step)
    assert term.mean == 0 and torch.equal(first, term(step))
    term.after_step(step)
    lengths = expected(module.generator, step.draws.normal("path_length", 3, 8, 8)[::2])
    torch.testing.assert_close(term.mean, 0.1 * lengths.detach().mean())
    assert term.seen.tolist() == [0, 0]
    assert list(term.state_dict()) == ["mean"]


@pytest.mark.parametrize("cuts", [[0, 6], [0, 3, 6], [0, 1, 2, 3, 4, 5, 6], [0, 4, 6]])
def test_any_cut_of_the_batch_gives_the_same_loss_and_the_same_mean(cuts):
    module, whole, term = game(generator=Linear()), PathLength(), PathLength()
    loss, total = whole(turn(module)), 0.0
    whole.after_step(turn(module))
    for start, stop in pairwise(cuts):
        part = term(turn(module, start, stop))
        total = total + (part * (stop - start) / 6 if part is not None else 0)
    term.after_step(turn(module))
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(term.mean, whole.mean)


def test_processes_add_up_what_they_saw(monkeypatch):
    module, ranks = game(generator=Linear()), [PathLength(), PathLength()]
    whole = PathLength()
    losses = [term(turn(module, 3 * rank, 3 * rank + 3)) for rank, term in enumerate(ranks)]
    torch.testing.assert_close(sum(losses) / 2, whole(turn(module)))
    whole.after_step(turn(module))
    both = ranks[0].seen + ranks[1].seen
    monkeypatch.setattr(paths, "add_up", lambda tensor: tensor.copy_(both))
    for term in ranks:
        term.after_step(turn(module))
        torch.testing.assert_close(term.mean, whole.mean)


def test_chunks_train_as_whole_batches_do_and_a_resumed_run_is_the_same_run(tmp_path):
    def make(**more):
        torch.manual_seed(1)
        generator = Linear()
        generator.mean_half_life = math.inf  # the mean style would move with each chunk
        return game(generator=generator, generator_terms={"path": PathLength(every=2)}, **more)

    whole, chunked, half, second = make(), make(micro_batch=3), make(), make()
    fit(whole, tmp_path / "whole"), fit(chunked, tmp_path / "chunked")
    torch.testing.assert_close(weights(chunked), weights(whole), rtol=1e-5, atol=1e-6)
    assert whole.terms["generator"]["path"].mean > 0
    fit(half, tmp_path / "half", images=24)
    fit(second, tmp_path / "half", images=40, ckpt_path=tmp_path / "half/checkpoints/images_000000024.ckpt")
    assert torch.equal(weights(second), weights(whole))


def test_a_whole_game_of_stylegan2_is_logged_and_moves_every_weight(tmp_path):
    torch.manual_seed(0)
    generator = StyleGAN2Generator(8, 3, 0, 6, 5, 4, 8, mapping_layers=2, style_mixing=0.9)
    module = game(generator=generator, generator_terms={"path": PathLength()})
    before = {name: p.clone() for name, p in generator.named_parameters()}
    trainer = fit(module, tmp_path, images=16)
    assert trainer.callback_metrics["generator/path"] > 0
    assert not [name for name, p in generator.named_parameters() if torch.equal(p, before[name])]


def test_labels_and_mixed_styles_go_in():
    module = game(generator=Linear(label_dim=3), conditional=True)
    module.generator.style_mixing = 0.9
    assert PathLength()(turn(module)) > 0


def test_it_never_differentiates_what_the_players_share():
    assert PathLength().differentiates == () and PathLength().weight == 2 and PathLength().every == 4


def test_other_generators_and_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"generator_terms.path: .* and TinyGenerator is none"):
        game(generator_terms={"path": PathLength()})
    with pytest.raises(ValueError, match="shrink must be at least 1"):
        PathLength(shrink=0)
    with pytest.raises(ValueError, match="decay is a share"):
        PathLength(decay=1.0)


def stylegan2_turn() -> tuple[PathLength, LatentStep]:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(8, 3, 0, 6, 5, 4, 8, mapping_layers=2, style_mixing=0.0)
    return PathLength(), turn(game(generator=generator))


def test_float16_which_has_no_room_for_derivatives_is_left_out_and_bfloat16_is_near():
    (term, step), (half, other), (brain, third) = (stylegan2_turn() for _ in range(3))
    expected = term(step)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(half(other), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(brain(third), expected, rtol=0.05, atol=0)
