"""One test per scenario: QEMU's transcript and ours must be equal."""

import difflib
from collections.abc import Callable

import pytest

from tests.oracle import deviations, scenario

_TOOLS = ("qemu-img", "qemu-io", "nbdinfo")


def differences(name: str) -> list[str]:
    """Run a scenario on both programs and return a readable diff, empty when equal."""
    pair = scenario.pair_of(name)
    qemu = scenario.run(name, pair.qemu)
    ours = scenario.run(name, pair.ours)
    expected, stale = deviations.apply(name, qemu, ours, deviations.load())
    # What both wait for in vain says nothing, however equal it is.
    stale += [f"{pair.ours.command}: {line}" for line in ours if line.startswith("** no answer")]
    diff = difflib.unified_diff(expected, ours, pair.qemu.command, pair.ours.command, n=2)
    return [*stale, *(line.rstrip("\n") for line in diff)]


def cases_of(module: str) -> Callable[[str], None]:
    """Make the test function for the scenarios of one module of ``scenarios/``."""

    @pytest.mark.oracle
    @pytest.mark.parametrize("name", sorted(scenario.load(module)))
    def test(name: str) -> None:
        pair = scenario.pair_of(name)
        for command in (pair.qemu.command, *_TOOLS):
            if scenario.Program(command).path() is None:
                pytest.skip(f"{command} is not installed")
        found = differences(name)
        assert not found, "\n" + "\n".join(found)

    return test
