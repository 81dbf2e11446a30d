"""What every term has: a weight that may move and turns between evaluations."""

import pytest

from lightning_avatars.schedules import Linear, Steps
from lightning_avatars.terms.base import Term


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
