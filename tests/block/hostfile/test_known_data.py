"""Remembering the last run of data."""

from qmpfleece.block.hostfile.known_data import KnownData


def test_nothing_is_known_at_first() -> None:
    assert not KnownData().covers(0, 1)


def test_run_covers_ranges_inside_and_no_others() -> None:
    known = KnownData()
    known.learn(known.ask(), 100, 200)
    assert known.covers(100, 100)
    assert known.covers(150, 1)
    assert not known.covers(99, 2)
    assert not known.covers(199, 2)


def test_answer_from_before_a_hole_was_made_is_not_learnt() -> None:
    known = KnownData()
    token = known.ask()
    known.forget()
    known.learn(token, 0, 100)
    assert not known.covers(0, 1)


def test_forgetting_forgets() -> None:
    known = KnownData()
    known.learn(known.ask(), 0, 100)
    known.forget()
    assert not known.covers(0, 1)
