"""Which pictures make each batch, from any start and on any number of processes."""

import itertools

import numpy as np
import pytest

from lightning_avatars.data.samplers import EndlessSampler, OnceSampler


def first(sampler, count):
    return list(itertools.islice(sampler, count))


@pytest.mark.parametrize("batch_size", [4, 7, 25])
def test_endless_sampler_starts_anywhere(batch_size):
    index = np.arange(100, 110)
    whole = first(EndlessSampler(index, batch_size, seed=3), 9)
    for skipped in range(1, 9):
        later = first(EndlessSampler(index, batch_size, seed=3, start=skipped * batch_size), 9 - skipped)
        for a, b in zip(whole[skipped:], later, strict=True):
            assert a.index.tolist() == b.index.tolist() and a.position.tolist() == b.position.tolist()


def test_endless_sampler_is_independent_of_the_batch_size():
    index = np.arange(10)
    small = np.concatenate([b.index for b in first(EndlessSampler(index, 3, seed=1), 20)])
    large = np.concatenate([b.index for b in first(EndlessSampler(index, 30, seed=1), 2)])
    assert small.tolist() == large.tolist()


def test_endless_sampler_shows_every_picture_once_a_pass_in_a_new_order():
    batches = first(EndlessSampler(np.arange(100, 110), 4, seed=0), 15)
    shown = np.concatenate([b.index for b in batches]).reshape(6, 10)
    assert np.concatenate([b.position for b in batches]).tolist() == list(range(60))
    assert (np.sort(shown) == np.arange(100, 110)).all()
    assert len({tuple(order) for order in shown.tolist()}) == 6
    other = np.concatenate([b.index for b in first(EndlessSampler(np.arange(100, 110), 4, seed=1), 15)])
    assert shown.ravel().tolist() != other.tolist()


def test_two_ranks_are_one_rank_cut_in_two():
    one = first(EndlessSampler(np.arange(10), 6, seed=2), 8)
    ranks = [first(EndlessSampler(np.arange(10), 6, 2, 0, rank, 2), 8) for rank in range(2)]
    for whole, left, right in zip(one, *ranks, strict=True):
        assert whole.index.tolist() == [*left.index, *right.index]
        assert whole.position.tolist() == [*left.position, *right.position]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_once_sampler_shows_all_without_repeats(world_size):
    index = np.arange(50, 73)
    samplers = [OnceSampler(index, 4, rank, world_size) for rank in range(world_size)]
    batches = [batch for sampler in samplers for batch in sampler]
    assert sorted(np.concatenate([b.index for b in batches])) == index.tolist()
    assert all((index[b.position] == b.index).all() for b in batches)
    assert sum(len(sampler) for sampler in samplers) == 6


@pytest.mark.parametrize(("count", "world_size"), [(3, 3), (5, 3), (7, 4), (4, 3)])
def test_every_process_has_a_batch_where_there_are_few_pictures(count, world_size):
    index = np.arange(50, 50 + count)
    ranks = [list(OnceSampler(index, 64, rank, world_size)) for rank in range(world_size)]
    assert all(ranks), "a process without a batch would wait for the others for ever"
    assert sorted(i for batches in ranks for batch in batches for i in batch.index) == index.tolist()


def test_fewer_pictures_than_processes_are_refused():
    with pytest.raises(ValueError, match="3 pictures are too few for 4 processes: use fewer processes"):
        OnceSampler(np.arange(3), 64, 0, 4)


@pytest.mark.parametrize("count", [2, 3])
def test_domains_take_turns_and_each_is_in_an_endless_order_of_its_own(count):
    index, domains = np.arange(100, 130), np.array([0] * 4 + [1 + i % (count - 1) for i in range(26)])
    batches = first(EndlessSampler(index, 6, 3, 0, 0, 1, domains), 60)
    shown = np.concatenate([batch.index for batch in batches])
    assert np.concatenate([batch.position for batch in batches]).tolist() == list(range(360))
    for domain in range(count):
        members = index[domains == domain]
        passes = shown[domain::count][: 360 // count // len(members) * len(members)].reshape(-1, len(members))
        assert (np.sort(passes) == members).all() and len({tuple(one) for one in passes.tolist()}) > 1
        alone = first(EndlessSampler(np.arange(len(members)), 6, 3), 1)
        own = members[alone[0].index[: len(members)]]
        assert (passes[0, :6].tolist() == own[: len(members)].tolist()[:6]) == (domain == 0), "orders differ by domain"


def test_domains_start_anywhere_and_are_cut_into_ranks():
    index, domains = np.arange(30), np.arange(30) % 3
    whole = first(EndlessSampler(index, 12, 5, 0, 0, 1, domains), 9)
    later = first(EndlessSampler(index, 12, 5, 48, 0, 1, domains), 5)
    ranks = [first(EndlessSampler(index, 12, 5, 0, rank, 2, domains), 9) for rank in range(2)]
    for a, b in zip(whole[4:], later, strict=True):
        assert a.index.tolist() == b.index.tolist() and a.position.tolist() == b.position.tolist()
    for one, left, right in zip(whole, *ranks, strict=True):
        assert one.index.tolist() == [*left.index, *right.index]
        assert (left.index % 3).tolist() == (right.index % 3).tolist() == [0, 1, 2] * 2
