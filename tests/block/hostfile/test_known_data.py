"""Remembering what is data."""

from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.hostfile.known_data import GRANULE, KnownData


def test_nothing_is_known_at_first() -> None:
    assert not KnownData().covers(0, 1)


def test_granules_wholly_in_a_run_are_covered_and_no_others() -> None:
    known = KnownData()
    known.learn(known.ask(), GRANULE - 1, 3 * GRANULE + 1)
    assert known.covers(GRANULE, 2 * GRANULE)
    assert known.covers(GRANULE + 5, 1)
    assert not known.covers(GRANULE - 1, 2)
    assert not known.covers(3 * GRANULE - 1, 2)
    known.learn(known.ask(), 5 * GRANULE, 6 * GRANULE - 1)
    assert not known.covers(5 * GRANULE, 1)


def test_answer_from_before_a_hole_was_made_is_not_learnt() -> None:
    known = KnownData()
    token = known.ask()
    known.forget(9 * GRANULE, 1)
    known.learn(token, 0, GRANULE)
    assert not known.covers(0, 1)


def test_what_is_behind_the_new_end_of_a_file_is_forgotten() -> None:
    known = KnownData()
    known.written(0, 8 * GRANULE)
    known.forget(2 * GRANULE + 1)
    assert known.covers(0, 2 * GRANULE)
    assert not any(known.covers(granule * GRANULE, 1) for granule in range(2, 8))


def test_of_an_endless_run_no_more_is_noted_than_is_worth_the_memory() -> None:
    known = KnownData()
    known.learn(known.ask(), 1 << 40, (1 << 63) - 1)
    assert known.covers(1 << 40, 1 << 30)
    assert not known.covers((1 << 40) + (1 << 30), 1)


def test_nothing_is_noted_so_far_away_that_the_bits_would_not_fit_into_memory() -> None:
    known = KnownData()
    known.written(1 << 62, GRANULE)
    assert not known.covers(1 << 62, GRANULE)
    known.written((1 << 44) - GRANULE, 2 * GRANULE)
    assert known.covers((1 << 44) - GRANULE, GRANULE)
    assert not known.covers((1 << 44) - GRANULE, 2 * GRANULE)
    known.forget(0)
    assert not known.covers((1 << 44) - GRANULE, GRANULE)


RANGES = st.tuples(st.integers(0, 20 * GRANULE), st.integers(1, 5 * GRANULE))


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=20), RANGES)
def test_it_covers_only_what_was_written_and_has_not_been_dropped_since(changes, asked) -> None:
    known = KnownData()
    data: set[int] = set()
    for writes, (offset, length) in changes:
        end = offset + length
        whole = range(-(-offset // GRANULE), end // GRANULE)
        touched = range(offset // GRANULE, (end - 1) // GRANULE + 1)
        if writes:
            known.written(offset, length)
            data.update(whole)
        else:
            known.forget(offset, length)
            data.difference_update(touched)
    offset, length = asked
    touched = range(offset // GRANULE, (offset + length - 1) // GRANULE + 1)
    assert known.covers(offset, length) == data.issuperset(touched)
