"""Past fakes: what comes back, how often, how old, and that chunks see what the whole batch does."""

from __future__ import annotations

import pytest
import torch

from lightning_avatars.pool import HistoryPool
from lightning_avatars.seeding import Draws

CPU = torch.device("cpu")


def numbered(step: int, count: int) -> torch.Tensor:
    """Images of one number each: the step, and the place in the batch behind the point."""
    return (step + torch.arange(count) / 100).view(-1, 1, 1, 1)


def turn(pool: HistoryPool, step: int, count: int, chunk: int | None = None) -> torch.Tensor:
    """Let a batch meet the pool, in chunks; return what is judged."""
    draws, made = Draws(7, step * count, count, 0, count, CPU), numbered(step, count)
    chunk = chunk or count
    judged = [pool.mix(made[i : i + chunk], draws.chunk(i, i + chunk)) for i in range(0, count, chunk)]
    pool.keep()
    return torch.cat(judged).flatten()


def test_until_it_is_full_all_images_are_new_and_kept_in_order():
    pool = HistoryPool(3, 1, 1, ["a", "b"])
    for step in range(3):
        torch.testing.assert_close(turn(pool, step, 2), numbered(step, 2).flatten())
    expected = torch.tensor([[0.0, 1, 2], [0.01, 1.01, 2.01]])
    torch.testing.assert_close(pool.images[..., 0, 0, 0], expected)


def test_half_of_what_is_judged_is_past_and_as_old_as_places_are_kept_on_average():
    pool = HistoryPool(5, 1, 1, ["a", "b"])
    judged = torch.stack([turn(pool, step, 2) for step in range(2000)])[100:]
    age = torch.arange(100, 2000)[:, None] - judged.floor()
    assert float((age > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    # a place is left with probability 1/2 · 1/5 in each step: ages are geometric, of mean 10
    assert float(age[age > 0].mean()) == pytest.approx(10, rel=0.1)
    assert float((age[age > 0] == 1).float().mean()) == pytest.approx(1 / 10, abs=0.02)


def test_past_images_are_of_the_same_domain_and_give_their_place_to_those_that_they_stand_for():
    pool, held = HistoryPool(4, 1, 1, ["a", "b"]), [set(), set()]
    for step in range(200):
        before = [set(row.flatten().tolist()) for row in pool.images]
        judged, made = turn(pool, step, 4), numbered(step, 4).flatten()
        after = [set(row.flatten().tolist()) for row in pool.images]
        for row, (seen, new) in enumerate(zip(judged.tolist(), made.tolist(), strict=True)):
            domain = row % 2
            if seen != new:
                assert seen in before[domain] and seen not in after[domain] and new in after[domain]
            held[domain].add(new)
        assert all(kept <= held[domain] | {0.0} for domain, kept in enumerate(after))


def test_chunks_meet_the_pool_as_the_whole_batch_does():
    whole, chunked = HistoryPool(5, 1, 1, ["a", "b"]), HistoryPool(5, 1, 1, ["a", "b"])
    for step in range(50):
        assert torch.equal(turn(whole, step, 8), turn(chunked, step, 8, 2))
    assert torch.equal(whole.images, chunked.images) and whole.count == chunked.count == 5


def test_batches_larger_than_the_pool_read_each_place_once():
    pool = HistoryPool(3, 1, 1)
    for step in range(20):
        judged = turn(pool, step, 10)
        assert len(set(judged.tolist())) == 10


def test_a_restored_pool_goes_on_as_the_old_one():
    old, new = HistoryPool(3, 1, 1), HistoryPool(3, 1, 1)
    for step in range(10):
        turn(old, step, 2)
    new.load_state_dict(old.state_dict())
    for step in range(10, 20):
        assert torch.equal(turn(old, step, 2), turn(new, step, 2))


def test_what_was_judged_does_not_change_when_the_pool_does():
    pool = HistoryPool(1, 1, 1)
    turn(pool, 0, 1)
    draws = [Draws(7, step, 1, 0, 1, CPU) for step in range(20)]
    step = next(i for i, d in enumerate(draws) if pool.plan(d).read[0] == 0)
    seen = pool.mix(torch.full((1, 1, 1, 1), 5.0), draws[step])
    pool.keep()
    assert seen.item() == 0 and pool.images.item() == 5


def test_an_empty_pool_is_refused():
    with pytest.raises(ValueError, match="at least 1 image"):
        HistoryPool(0)
