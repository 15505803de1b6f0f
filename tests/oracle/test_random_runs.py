"""What random runs take for a difference."""

import pytest

from tests.oracle import random_runs
from tests.oracle.monitor import StoppedError
from tests.oracle.session import Session
from tests.tools.programs import needs

pytestmark = needs("qemu-storage-daemon")


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "AssertionError: n0 writes without the permission",
        "device_add has failed unexpectedly",
        "Task exception was never retrieved",
        "<sys>:0: RuntimeWarning: coroutine 'pread' was never awaited",
    ],
)
def test_a_fault_of_ours_that_changes_no_reply_is_a_difference(line):
    said = f"stderr: {line}"
    assert random_runs.difference(_told_in_turn([], [said]), _nothing) == [f"+{said}"]


def test_other_lines_of_stderr_are_compared_only_if_they_are_comparable():
    told = ["stderr: PROGRAM: warning: Could not write: Input/output error"]
    assert not random_runs.difference(_told_in_turn([], told), _nothing)
    assert random_runs.difference(_told_in_turn([], told), list)


def test_what_stops_both_is_a_difference():
    def stop(_session: Session) -> None:
        raise StoppedError("no answer")

    assert random_runs.difference(stop, _nothing) == ["+** no answer"]


def _told_in_turn(*told: list[str]):
    """Return a scenario that tells other lines in each of its runs: QEMU's, then ours."""
    turns = iter(told)

    def tell(session: Session) -> None:
        for line in next(turns):
            session.transcript.add(line)

    return tell


def _nothing(_lines):
    return []
