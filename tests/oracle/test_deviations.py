import pytest

from tests.oracle import deviations, scenario
from tests.oracle.deviations import Deviation

LISTED = [Deviation(("quitting",), "old text", "new text", "because")]


def test_a_listed_difference_is_expected():
    expected, stale = deviations.apply("quitting", ["a", "old text"], ["a", "new text"], LISTED)
    assert expected == ["a", "new text"]
    assert not stale


@pytest.mark.parametrize(
    ("qemu", "ours"), [(["other"], ["new text"]), (["old text"], ["old text"])]
)
def test_a_listed_difference_that_does_not_occur_is_reported(qemu, ours):
    assert deviations.apply("quitting", qemu, ours, LISTED)[1]


def test_other_scenarios_are_left_alone():
    assert deviations.apply("starting", ["old text"], ["x"], LISTED) == (["old text"], [])


def test_every_listed_scenario_exists_and_every_entry_has_a_reason():
    known = scenario.load()
    for deviation in deviations.load():
        assert set(deviation.scenarios) <= set(known)
        assert deviation.reason
        assert deviation.qemu != deviation.ours
