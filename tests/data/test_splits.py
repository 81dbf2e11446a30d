import numpy as np
import pytest

from lightning_avatars.data.splits import assign, check_shares

SHARES = (0.7, 0.15, 0.15)


def digests(*numbers):
    return np.stack([np.random.default_rng(n).integers(0, 256, 16, np.uint8) for n in numbers])


def test_shares_are_met_and_pictures_stay_when_others_come():
    table = digests(*range(4000))
    splits = assign(SHARES, table)
    assert np.allclose(np.bincount(splits) / 4000, SHARES, atol=0.03)
    assert (assign(SHARES, table[:1000]) == splits[:1000]).all()
    order = np.random.default_rng(0).permutation(4000)
    assert (assign(SHARES, table[order]) == splits[order]).all()


def test_copies_and_identities_stay_together():
    table = digests(*range(300), *range(300))
    splits = assign(SHARES, table)
    assert (splits[:300] == splits[300:]).all()
    people = [f"person {i % 50}" for i in range(600)]
    by_person = assign(SHARES, digests(*range(600)), people).reshape(12, 50)
    assert (by_person == by_person[0]).all() and len(set(by_person[0])) == 3


def test_a_copy_links_two_identities_in_any_order():
    for link in range(30):
        numbers = [*range(100), link]  # the last picture is a copy of picture `link`, under another name
        people = [f"a{link}-{i // 10}" for i in range(100)] + [f"a{link}-{(link // 10 + 5) % 10}"]
        splits = assign(SHARES, digests(*numbers), people)
        one, other = link // 10, (link // 10 + 5) % 10
        assert len({*splits[one * 10 : one * 10 + 10], *splits[other * 10 : other * 10 + 10], splits[100]}) == 1
        order = np.random.default_rng(link).permutation(101)
        again = assign(SHARES, digests(*[numbers[i] for i in order]), [people[i] for i in order])
        assert (again == splits[order]).all()


def test_unknown_identities_are_split_by_content():
    table = digests(*range(100))
    assert (assign(SHARES, table, [""] * 100) == assign(SHARES, table)).all()


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_bad_shares_are_refused(shares):
    with pytest.raises(ValueError, match="three shares that sum to 1"):
        check_shares(shares)


def test_whole_shares():
    assert set(assign((1, 0, 0), digests(*range(50)))) == {0}
    assert set(assign((0, 0, 1), digests(*range(50)))) == {2}
