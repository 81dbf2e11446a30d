"""Translation that learns from pairs: planes, turns against a plain loop, styles of regions."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_avatars.callbacks.run import Run
from lightning_avatars.families.paired_translation import boundaries
from lightning_avatars.images import coloured, to_float
from lightning_avatars.networks.layers.equalized import MinibatchDeviation
from lightning_avatars.terms.gradients import R1, R2
from lightning_avatars.terms.reconstruction import L1
from tests.conf.training import fit, weights
from tests.conf.translation import (
    PARTS,
    TinyJudge,
    batch_of,
    count_calls,
    data_for,
    informed,
    paired_game,
    styled,
    turn,
)


def test_the_planes_are_the_source_the_classes_and_their_boundaries():
    module = informed(paired_game(planes=5, boundaries=True))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    mask[..., 1:, 2:] = 2
    source = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    planes = module.source_planes({"mask": mask, "source": source})
    assert planes.shape == (1, 5, 4, 4) and (planes[:, 0] == 1).all()
    assert torch.equal(planes[0, 1:4].argmax(0), mask[0, 0].long()) and (planes[:, 1:4].sum(1) == 1).all()
    expected = [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0]]
    assert planes[0, 4].tolist() == expected == boundaries(mask)[0, 0].int().tolist()


def test_pix2pix_is_the_plain_loop(tmp_path):
    """With batch norm, whose statistics are of real images and of fakes apart."""
    module = paired_game(normalized=True, average_half_life=None, generator_terms={"l1": L1(10.0)})
    g, d = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append({name: x.clone() for name, x in batch.items()})

    callbacks = [Run(images=40, validate_every=0, save_every=0), Seen()]
    fit(module, tmp_path, data=data_for("paired"), callbacks=callbacks)
    steps = [torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.99)) for network in (d, g)]
    softplus = nn.functional.softplus
    for batch in seen:
        one_hot = nn.functional.one_hot(batch["mask"][:, 0].long(), 3).permute(0, 3, 1, 2)
        planes, real = torch.cat([to_float(batch["source"]), one_hot], 1), to_float(batch["image"])
        fake = g(planes)
        steps[0].zero_grad()
        said = [d(torch.cat([planes, x], 1)).logits[0] for x in (fake.detach(), real)]
        (softplus(said[0]).mean() + softplus(-said[1]).mean()).backward()
        steps[0].step()
        steps[1].zero_grad()
        (softplus(-d(torch.cat([planes, fake], 1)).logits[0]).mean() + 10 * (fake - real).abs().mean()).backward()
        steps[1].step()
    torch.testing.assert_close(weights(module.generator), weights(g), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(module.discriminator), weights(d), rtol=1e-5, atol=1e-6)


def test_real_images_and_fakes_are_judged_at_once_where_they_do_not_meet_and_apart_elsewhere():
    mixing = TinyJudge(source_channels=4)
    mixing.norm = MinibatchDeviation()
    mixing.last = nn.Conv2d(7, 1, 3, padding=1)
    for parts, calls in (({}, 1), ({"normalized": True}, 2), ({"discriminator": mixing}, 2)):
        module = paired_game(**parts)
        step, counted = turn(module, "discriminator"), count_calls(module.discriminator)
        assert step.real_verdict.logits[0].shape == step.fake_verdict.logits[0].shape == (4, 1, 4, 4)
        assert counted == [calls]
    module = paired_game()
    apart = turn(module, "discriminator", differentiates=frozenset({"real"}))
    step = turn(module, "discriminator")
    for name in ("real_verdict", "fake_verdict"):
        together, alone = getattr(step, name), getattr(apart, name)
        torch.testing.assert_close(together.logits, alone.logits)
        torch.testing.assert_close(together.features, alone.features)


def test_penalties_are_of_the_image_and_not_of_its_source():
    module = paired_game(discriminator_terms={"r1": R1(), "r2": R2()})
    step = turn(module, "discriminator", differentiates=frozenset({"real", "fake"}))
    assert step.real.requires_grad and not step.source.requires_grad
    pair = torch.cat([step.source, step.real.detach()], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(module.discriminator(pair).logits[0].sum(), pair)
    expected = gradient[:, 4:].square().flatten(1).sum(1).mean() / 2
    torch.testing.assert_close(module.terms["discriminator"]["r1"](step), expected)


def test_an_encoder_tells_the_generator_what_the_real_image_is_like_and_is_trained_with_it(tmp_path):
    module = paired_game(generator=styled())
    before = weights(module.generator.encoder.network)
    fit(module, tmp_path, 40, data=data_for("paired"))
    encoder = module.average.average.encoder
    assert not torch.equal(weights(module.generator.encoder.network), before) and encoder.batches.min() > 0
    batch = next(iter(data_for("paired", ready=True).val_dataloader()))
    plain, again = module.translate(batch), module.translate(batch)
    torch.testing.assert_close(plain, again, rtol=0, atol=0)
    with torch.no_grad():
        planes = module.source_planes(batch)
        expected = module.average.average(torch.cat([planes, encoder.draw(planes[:, 1:4])], 1))
    torch.testing.assert_close(plain, expected)
    seeds = torch.arange(len(plain))
    drawn = [module.translate(batch, seeds=seeds + shift) for shift in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.testing.assert_close(drawn[0][1:], module.translate({k: v[1:] for k, v in batch.items()}, seeds=seeds[1:]))
    assert module.memory_need(8, 3, 8).activations > 0


def test_an_encoder_remembers_as_much_of_a_batch_in_chunks_as_of_a_whole_one(tmp_path):
    encoders = []
    for chunk in (None, 2):
        module = paired_game(generator=styled(), micro_batch=chunk)
        fit(module, tmp_path / str(chunk), 24, data=data_for("paired"))
        encoders.append(module.average.average.encoder)
    for name in ("mean", "variance", "batches"):
        whole, chunked = (encoder.get_buffer(name) for encoder in encoders)
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)
    assert encoders[0].batches.max() == 3


def test_a_label_map_with_a_class_that_the_model_does_not_know_is_refused():
    batch = batch_of()
    batch["mask"][0, 0, 0, 0] = 3
    with pytest.raises(ValueError, match="class 3, but this model knows 3, from 0 to 2: nothing, disc, heart"):
        informed(paired_game()).translate(batch)


@pytest.mark.parametrize(("sources", "maps"), [(1, True), (3, False), (0, True)])
def test_a_preview_shows_the_source_or_else_the_label_map_in_colours(sources, maps):
    module, batch = paired_game(planes=sources + 3 * maps), batch_of()
    batch["source"] = batch["source"].expand(-1, sources, -1, -1)
    informed(module).source_channels, module.mask_names = sources, PARTS if maps else []
    shown, made, image = module.preview(batch)["translation"].unbind(1)
    expected = batch["source"].expand(-1, 3, -1, -1) if sources else coloured(batch["mask"], 3)
    torch.testing.assert_close(shown, to_float(expected))
    torch.testing.assert_close(made, module.translate(batch))
    torch.testing.assert_close(image, to_float(batch["image"]))
