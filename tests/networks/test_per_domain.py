"""Networks for each domain, against networks called one by one."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser
from torch.nn import InstanceNorm2d

from lightning_avatars.networks.base import Verdict
from lightning_avatars.networks.multiscale import MultiScaleDiscriminator
from lightning_avatars.networks.per_domain import PerDomainDiscriminator, PerDomainTranslator
from lightning_avatars.networks.residual_translator import ResidualTranslator
from lightning_avatars.networks.stargan import StarGANDiscriminator

PATTERNS = [(0, 1, 2), (1, 2, 0), (1, 0), (2, 2), (0,), (0, 1, 0), (1, 1, 0, 2)]


def translators():
    torch.manual_seed(0)
    return PerDomainTranslator(lambda: ResidualTranslator(16, width=4, blocks=1), ["a", "b", "c"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_go_through_their_network_and_come_back_in_place_to_the_bit(pattern):
    networks, x = translators(), torch.randn(12, 3, 16, 16)
    images = networks(x, pattern)
    for name, network in networks.networks.items():
        number = list(networks.networks).index(name)
        mine = [i for i in range(12) if pattern[i % len(pattern)] == number]
        if mine:
            assert torch.equal(images[mine], network(x[mine]))


def test_gradients_are_those_of_two_separate_networks_to_the_bit():
    networks, x, weight = translators(), torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    (networks(x, (1, 0)) * weight).sum().backward()
    together = {name: p.grad.clone() for name, p in networks.named_parameters() if p.grad is not None}
    networks.zero_grad()
    for name, start in (("b", 0), ("a", 1)):
        (networks.networks[name](x[start::2]) * weight[start::2]).sum().backward()
    alone = {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
    assert together.keys() == alone.keys() and len(together) == 2 * len(list(networks.networks["a"].parameters()))
    assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_networks_begin_unlike_and_say_what_sizes_they_take():
    networks = translators()
    first, second = (networks.networks[name].output[1].weight for name in "ab")
    assert not torch.equal(first, second)
    assert networks.multiple == 4


@pytest.mark.parametrize("pattern", [(0, 1), (1, 0), (1, 1), (0,)])
def test_verdicts_are_those_of_each_rows_own_discriminator(pattern):
    torch.manual_seed(0)
    judges = PerDomainDiscriminator(
        lambda: MultiScaleDiscriminator(16, width=4, layers=1, normalization=InstanceNorm2d), ["a", "b"]
    )
    x = torch.randn(4, 3, 16, 16)
    verdict = judges(x, pattern)
    for i in range(4):
        alone = judges.networks["ab"[pattern[i % len(pattern)]]](x[i : i + 1])
        for ours, theirs in zip(verdict.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[i : i + 1], theirs)


def test_heads_come_back_too():
    torch.manual_seed(0)
    judges = PerDomainDiscriminator(lambda: StarGANDiscriminator(16, label_dim=2, width=4), ["a", "b"])
    x = torch.randn(4, 3, 16, 16)
    assert judges.heads == {"class": 2}
    verdict = judges(x, (0, 1))
    assert isinstance(verdict, Verdict)
    assert torch.equal(verdict.heads["class"][1::2], judges.networks["b"](x[1::2]).heads["class"])


def test_what_cannot_be_parted_is_refused():
    networks = translators()
    with pytest.raises(ValueError, match="3 images are no whole number of the 2 domains"):
        networks(torch.zeros(3, 3, 16, 16), (0, 1))
    for pattern in [(), (0, 3), (-1,)]:
        with pytest.raises(ValueError, match="from 0 to 2"):
            networks(torch.zeros(4, 3, 16, 16), pattern)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"]])
def test_domains_are_two_or_more_and_all_different(names):
    with pytest.raises(ValueError, match="two domains or more"):
        PerDomainTranslator(lambda: ResidualTranslator(16, width=4), names)


def test_a_name_that_no_network_can_have_is_refused():
    with pytest.raises(ValueError, match=r"a\.b"):
        PerDomainTranslator(lambda: ResidualTranslator(16, width=4), ["a.b", "c"])


def test_the_command_line_makes_one_network_for_each_domain():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((PerDomainTranslator, PerDomainDiscriminator), "model")
    here = "lightning_avatars.networks."
    translator = {"class_path": here + "residual_translator.ResidualTranslator", "init_args": {"width": 4, "blocks": 1}}
    config = {
        "class_path": here + "per_domain.PerDomainTranslator",
        "init_args": {"make": translator, "domain_names": ["a", "b"]},
    }
    model = parser.instantiate_classes(parser.parse_object({"model": config})).model
    assert isinstance(model.networks["b"], ResidualTranslator)
    assert model.networks["a"] is not model.networks["b"]
