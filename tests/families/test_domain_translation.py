"""Translation between domains: which network sees what, turns against a plain loop, past fakes."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_avatars.callbacks.predictions import Predictions
from lightning_avatars.callbacks.run import Run
from lightning_avatars.images import to_bytes, to_float
from lightning_avatars.objectives.adversarial import Relativistic
from lightning_avatars.seeding import Draws
from lightning_avatars.terms.cycle import Cycle, Identity
from tests.conf.training import fit, silent_trainer, weights
from tests.conf.translation import batch_of, count_calls, cut_game, cycle_game, data_for, informed, turn

CPU = torch.device("cpu")


def test_a_fake_stands_where_a_real_image_of_its_domain_stands_and_goes_back_where_it_came_from():
    module = cycle_game()
    step, networks = turn(module, "generator", 8), module.generator.networks
    night, day = step.real[::2], step.real[1::2]
    torch.testing.assert_close(step.made[::2], networks["night"](day))
    torch.testing.assert_close(step.made[1::2], networks["day"](night))
    torch.testing.assert_close(step.identity[::2], networks["night"](night))
    torch.testing.assert_close(step.identity[1::2], networks["day"](day))
    torch.testing.assert_close(step.cycled[::2], networks["night"](networks["day"](night)))
    torch.testing.assert_close(step.cycled[1::2], networks["day"](networks["night"](day)))
    judges = module.discriminator.networks
    torch.testing.assert_close(step.fake_verdict.logits[0][::2], judges["night"](step.made[::2]).logits[0])
    torch.testing.assert_close(step.real_verdict.logits[0][1::2], judges["day"](day).logits[0])


@pytest.mark.parametrize("identity", [0.0, 5.0])
def test_cyclegan_is_the_plain_loop_and_makes_each_image_once(tmp_path, identity):
    terms = {"cycle": Cycle(10.0), "identity": Identity(identity)}
    module = cycle_game(pool=None, average_half_life=None, generator_terms=terms)
    nets = {k: copy.deepcopy(n) for k, n in [*module.generator.networks.items()]}
    judges = {k: copy.deepcopy(n) for k, n in [*module.discriminator.networks.items()]}
    calls = [count_calls(n) for part in (module.generator, module.discriminator) for n in part.networks.values()]
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(to_float(batch["image"]))

    callbacks = [Run(images=40, validate_every=0, save_every=0), Seen()]
    fit(module, tmp_path, data=data_for("cycle"), callbacks=callbacks)
    assert calls == [[10]] * 4, "5 batches: made with identity, cycled; real images with fakes, fakes for the generator"

    def optimizer(networks):
        return torch.optim.Adam([p for n in networks.values() for p in n.parameters()], 2e-3, (0.5, 0.99))

    steps = optimizer(judges), optimizer(nets)
    for image in seen:
        real = {"night": image[::2], "day": image[1::2]}
        fake = {"night": nets["night"](real["day"]), "day": nets["day"](real["night"])}
        steps[0].zero_grad()
        for name, judge in judges.items():
            on_real, on_fake = judge(real[name]).logits[0], judge(fake[name].detach()).logits[0]
            (((on_real - 1).square().mean() + on_fake.square().mean()) / 2 / 2).backward()
        steps[0].step()
        steps[1].zero_grad()
        total = 0
        for name, other in (("night", "day"), ("day", "night")):
            total = total + (judges[name](fake[name]).logits[0] - 1).square().mean() / 2
            total = total + 10 * (nets[name](fake[other]) - real[name]).abs().mean()
            total = total + identity * (nets[name](real[name]) - real[name]).abs().mean()
        (total / 2).backward()
        steps[1].step()
    for mine, theirs in ((module.generator, nets), (module.discriminator, judges)):
        for name, network in theirs.items():
            torch.testing.assert_close(weights(mine.networks[name]), weights(network), rtol=1e-5, atol=2e-6)


def test_the_discriminator_judges_past_fakes_and_the_generator_only_its_own():
    module = cycle_game(pool=1)
    module.pool.count = 1
    module.pool.images.fill_(0.25)
    swaps = 0
    for images_seen in range(0, 40, 4):
        batch = batch_of() | {"image": to_float(batch_of()["image"])}
        draws = Draws(0, images_seen, 4, 0, 4, CPU)
        step = module.step_class(informed(module), batch, draws, "discriminator")
        past = (step.fake == 0.25).flatten(1).all(1)
        swaps += int(past.sum())
        torch.testing.assert_close(step.fake[~past], step.made[~past])
        torch.testing.assert_close(module.step_class(module, batch, draws, "generator").fake, step.made)
        module.pool.waiting.clear()
    assert 3 <= swaps <= 17  # of 20 images that may be


def test_the_pool_is_in_the_checkpoint_and_no_part_of_what_makes_images(tmp_path):
    module = cycle_game()
    fit(module, tmp_path, 32, data=data_for("cycle"))
    state = module.state_dict()
    assert module.pool.count == 3 == state["pool._extra_state"] and state["pool.images"].any()
    assert not any("pool" in name for name in module.sampling_state())


def test_one_way_makes_images_of_the_second_domain_and_judges_those():
    module = cut_game()
    step = turn(module, "generator", 8)
    image = to_float(batch_of(8)["image"])
    assert torch.equal(step.real, image[1::2]) and torch.equal(step.source, image[::2])
    torch.testing.assert_close(step.made, module.generator(image[::2]))
    torch.testing.assert_close(step.identity, module.generator(image[1::2]))
    assert step.fake_verdict.logits[0].shape == (4, 1, 4, 4) and len(step.draws) == 4


def test_domains_are_translated_by_name_and_scored_against_the_other_domain():
    module = informed(cycle_game())
    batch = batch_of(8)
    sets = module.evaluation_sets(batch)
    assert list(sets) == ["night_to_day", "night_to_day_to_night", "day_to_night", "day_to_night_to_day"]
    night, day = batch["image"][::2], batch["image"][1::2]
    there = sets["night_to_day"]
    assert torch.equal(there.reference, day) and torch.equal(there.source, night) and there.target is None
    torch.testing.assert_close(there.images, module.translate({"image": night}, to="day"))
    back = sets["night_to_day_to_night"]
    assert torch.equal(back.target, night)
    again = module.translate({"image": to_bytes(there.images)}, to="night")
    torch.testing.assert_close(back.images, again)
    only = {name: x[::2] for name, x in batch.items()}
    sets = module.evaluation_sets(only)
    assert len(sets) == 4 and len(sets["day_to_night"].images) == 0 == len(sets["night_to_day"].reference)
    one_way = informed(cut_game())
    assert list(one_way.evaluation_sets(batch)) == ["night_to_day"] and one_way.directions == {"night_to_day": (0, 1)}
    torch.testing.assert_close(one_way.translate(only), one_way.translate(only, to="day"))
    made = module.predict_step(batch, 0)
    assert torch.equal(made["image"][::2], to_bytes(there.images)) and torch.equal(made["index"], batch["index"])
    for asked, message in ((None, "say where pictures shall go: to day or night"), ("noon", "nothing leads to 'noon'")):
        with pytest.raises(ValueError, match=message):
            module.translate(batch, to=asked)


def test_one_way_predicts_nothing_of_what_is_there_already(tmp_path):
    module, batch = informed(cut_game()), batch_of(8)
    made = module.predict_step(batch, 0)
    assert torch.equal(made["image"], to_bytes(module.translate({"image": batch["image"][::2]})))
    assert torch.equal(made["index"], batch["index"][::2])
    data = data_for("cut", ready=True)
    data.setup("predict")
    trainer = silent_trainer(tmp_path, callbacks=[Predictions()])
    trainer.predict(module, data, return_predictions=False)
    test = data.store.split("test")
    nights = [int(i) for i in test[data.store.domains[test] == 0]]
    assert sorted(int(path.stem) for path in tmp_path.glob("predictions/*.png")) == nights and len(nights) < len(test)


def test_relativistic_objectives_compare_images_of_the_same_domain():
    module = cycle_game(objective=Relativistic())
    step, judges = turn(module, "generator"), module.discriminator.networks
    gaps = [
        judges[name](step.made[first::2]).logits[0] - judges[name](step.real[first::2]).logits[0]
        for first, name in enumerate(("night", "day"))
    ]
    expected = nn.functional.softplus(-torch.cat(gaps)).mean()
    torch.testing.assert_close(module.adversarial_loss("generator", step), expected)


@pytest.mark.parametrize("make", [cycle_game, cut_game])
def test_held_out_pictures_are_judged_alike_however_their_domains_lie_in_batches(tmp_path, make):
    module = informed(make())
    said = {}

    def log(name, value, batch_size, **_):
        said.setdefault(name, []).append((value, batch_size))

    module.log, module.log_clock = log, lambda: None
    batch = batch_of(8)
    for name, rows in (("mixed", [slice(None)]), ("parted", [slice(0, None, 2), slice(1, None, 2)])):
        for part in rows:
            module.judge_real({key: value[part] for key, value in batch.items()}, name)
    whole, parts = said["mixed/logit_real"], said["parted/logit_real"]
    assert sum(count for _, count in parts) == whole[0][1] > 0
    torch.testing.assert_close(sum(value * count for value, count in parts) / whole[0][1], whole[0][0])


def test_a_look_at_memory_that_fails_leaves_nothing_for_the_pool(tmp_path, monkeypatch):
    module = cycle_game()
    fit(module, tmp_path, 16, data=data_for("cycle"))

    def fails(*_):
        raise RuntimeError

    monkeypatch.setattr(type(module.objective), "generator", fails)
    with pytest.raises(RuntimeError):
        module.memory_need(8, 3, 8)
    assert not module.pool.waiting
