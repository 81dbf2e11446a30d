"""What every term has: a weight that may move and turns between evaluations."""

from functools import partial

import pytest

from lightning_avatars.latents import Codes
from lightning_avatars.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_avatars.networks.layers.labels import ClassHead, CodeHead, ProjectionHead
from lightning_avatars.schedules import Linear, Steps
from lightning_avatars.terms.base import Term
from lightning_avatars.terms.classification import Classification
from lightning_avatars.terms.information import Information
from tests.conf.training import game


def test_weights_are_numbers_or_schedules():
    assert Term().weight_at(0) == 1 and Term().every == 1
    assert Term(0.25).weight_at(10**6) == 0.25
    assert [Term(Linear(1.0, 0.0, last=100)).weight_at(n) for n in (0, 25, 100, 200)] == [1.0, 0.75, 0.0, 0.0]
    assert [Term(Steps({0: 0.0, 8: 2.0})).weight_at(n) for n in (7, 8)] == [0.0, 2.0]


def test_a_plain_term_adds_no_loss_and_has_no_state():
    term = Term()
    assert term(None) is None and term.after_step(None) is None
    assert term.differentiates == () and not term.state_dict()


@pytest.mark.parametrize("every", [0, -1])
def test_every_counts_turns(every):
    with pytest.raises(ValueError, match=f"at least 1, got {every}"):
        Term(every=every)


def headed(head, label_dim=0, **arguments):
    """A game whose discriminator has the given head."""
    return game(
        label_dim > 0,
        generator=DCGANGenerator(16, 3, label_dim, latent_dim=8, width=4),
        discriminator=DCGANDiscriminator(16, 3, label_dim, width=4, head=head),
        **arguments,
    )


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_term_that_reads_a_head_needs_one(player):
    terms = {f"{player}_terms": {"read": Classification()}}
    with pytest.raises(
        ValueError, match=rf"{player}_terms\.read reads a head 'class' of length 5, but DCGAN\w+ has none"
    ):
        headed(ProjectionHead, 5, **terms)
    with pytest.raises(ValueError, match="'class' of length 3, but TinyDiscriminator has none: set its head"):
        game(conditional=True, **terms)


def test_a_head_must_be_as_long_as_what_is_read():
    terms = {f"{player}_terms": {"read": Information()} for player in ("generator", "discriminator")}
    terms |= {"prior": Codes(5, [3])}
    assert headed(partial(CodeHead, code_dim=3), **terms).discriminator.heads == {"code": 3}
    with pytest.raises(ValueError, match="head 'code' of length 3, but DCGANDiscriminator has one of length 4"):
        headed(partial(CodeHead, code_dim=4), **terms)


def test_a_head_that_nothing_trains_is_an_error():
    for terms in ({}, {"generator_terms": {"read": Classification()}}):
        with pytest.raises(
            ValueError, match="DCGANDiscriminator has a head 'class' that no term trains: add one to disc"
        ):
            headed(ClassHead, 5, **terms)
    both = {"discriminator_terms": {"read": Classification()}, "generator_terms": {"read": Classification()}}
    assert headed(ClassHead, 5, **both).conditional


def test_a_head_that_the_generator_need_not_obey_is_an_error():
    with pytest.raises(ValueError, match="a head 'class' that no term makes the generator obey: add one to generator_"):
        headed(ClassHead, 5, discriminator_terms={"read": Classification()})
    terms = {"discriminator_terms": {"read": Information()}, "prior": Codes(5, [3])}
    with pytest.raises(ValueError, match="a head 'code' that no term makes the generator obey"):
        headed(partial(CodeHead, code_dim=3), **terms)


@pytest.mark.parametrize("off", ["discriminator", "generator"])
def test_a_term_that_is_turned_off_trains_no_head(off):
    weights = {"discriminator": 1.0, "generator": 1.0} | {off: 0.0}
    classes = {f"{player}_terms": {"read": Classification(weight)} for player, weight in weights.items()}
    with pytest.raises(ValueError, match=rf"'class' that no term .* add one to {off}_terms, .* weight that is not 0"):
        headed(ClassHead, 5, **classes)
    codes = {f"{player}_terms": {"read": Information(weight)} for player, weight in weights.items()}
    with pytest.raises(ValueError, match=rf"'code' that no term .* add one to {off}_terms"):
        headed(partial(CodeHead, code_dim=3), prior=Codes(5, [3]), **codes)


def test_a_weight_that_begins_at_0_is_none_that_is_turned_off():
    late = {
        f"{player}_terms": {"read": Classification(Steps({0: 0.0, 8: 1.0}))}
        for player in ("generator", "discriminator")
    }
    assert headed(ClassHead, 5, **late).discriminator.heads == {"class": 5}


def test_codes_that_nobody_reads_are_an_error():
    with pytest.raises(ValueError, match="Codes would tell nobody anything: give the discriminator a CodeHead"):
        game(generator=DCGANGenerator(16, 3, 0, latent_dim=8, width=4), prior=Codes(5, [3]))
