"""One test per scenario: QEMU's transcript and ours must be equal."""

import difflib
import functools
import subprocess
from collections.abc import Callable
from typing import Final

import pytest

from tests.oracle import deviations, scenario

_VERSION: Final = " version 7.2."
_TOOLS: Final = ("qemu-img", "qemu-io", "nbdinfo")


def differences(name: str) -> list[str]:
    """Run a scenario on both programs and return a readable diff, empty when equal."""
    pair = scenario.pair_of(name)
    qemu = scenario.run(name, pair.qemu)
    ours = scenario.run(name, pair.ours)
    expected, stale = deviations.apply(name, qemu, ours, deviations.load())
    stale += [f"{pair.ours.command}: {line}" for line in scenario.stops(ours)]
    diff = difflib.unified_diff(expected, ours, pair.qemu.command, pair.ours.command, n=2)
    return [*stale, *(line.rstrip("\n") for line in diff)]


@functools.cache
def _version_of(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.partition("\n")[0]


def cases_of(module: str) -> Callable[[str], None]:
    """Make the test function for the scenarios of one module of ``scenarios/``."""

    long = pytest.mark.soak
    cases = [
        pytest.param(name, marks=long if scenario.is_long(name) else ())
        for name in sorted(scenario.load(module))
    ]

    @pytest.mark.oracle
    @pytest.mark.parametrize("name", cases)
    def test(name: str) -> None:
        pair = scenario.pair_of(name)
        for command in (pair.qemu.command, *_TOOLS):
            if scenario.Program(command).path() is None:
                pytest.skip(f"{command} is not installed")
        if _VERSION not in (said := _version_of(pair.qemu.command)):
            pytest.skip(f"another QEMU than 7.2 answers otherwise: {said}")
        found = differences(name)
        assert not found, "\n" + "\n".join(found)

    return test
