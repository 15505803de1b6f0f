"""Scenarios by name, and how one is run on a program."""

import importlib
import os
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.oracle.monitor import StoppedError, UnsettledError
from tests.oracle.session import Session
from tests.oracle.transcript import Transcript
from tests.tools.programs import BIN

#: A scenario drives a session; what it sees is compared, so it asserts nothing.
Scenario = Callable[[Session], None]

_SCENARIOS: Final[dict[str, Scenario]] = {}

_ATTEMPTS: Final = 3

#: What the line of a transcript begins with that says why its scenario could not go on.
_STOPPED: Final = "** "


@dataclass(frozen=True)
class Program:
    """A program to run scenarios on.

    ``delayed_commands`` tells Debian's 7.2, see transcript.py. ``machine`` are the options
    that every run has of a program that takes those of qemu-system; None: it takes those of
    qemu-storage-daemon.
    """

    command: str
    delayed_commands: bool = False
    machine: tuple[str, ...] | None = None

    def path(self) -> str | None:
        """Return the executable, None when it is not installed."""
        return shutil.which(self.command, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")


_MACHINE: Final = ("-nodefaults", "-display", "none", "-S")


@dataclass(frozen=True)
class Pair:
    """QEMU's program and ours that does the same."""

    qemu: Program
    ours: Program

    def of(self, implementation: str) -> Program:
        """Return the program of ``qemu`` or ``qmpfleece``."""
        return self.qemu if implementation == "qemu" else self.ours


STORAGE_DAEMON: Final = Pair(
    Program("qemu-storage-daemon", delayed_commands=True), Program("qmpfleece-qsd")
)
SYSTEM: Final = Pair(
    Program("qemu-system-x86_64", delayed_commands=True, machine=_MACHINE),
    Program("qmpfleece-qemu", machine=_MACHINE),
)
IMPLEMENTATIONS: Final = ("qemu", "qmpfleece")

#: The scenarios that are run on qemu-system.
_ON_SYSTEM: Final[set[str]] = set()
_LONG: Final[set[str]] = set()


def scenario(function: Scenario) -> Scenario:
    """Register a scenario for the storage daemons under its function's name."""
    name = function.__name__
    if name in _SCENARIOS:
        raise ValueError(f"scenario {name} is defined twice")
    _SCENARIOS[name] = function
    return function


def system_scenario(function: Scenario) -> Scenario:
    """Register a scenario for qemu-system under its function's name."""
    _ON_SYSTEM.add(function.__name__)
    return scenario(function)


def long(function: Scenario) -> Scenario:
    """Leave a registered scenario, of dozens of variations, each a start of both, to make soak."""
    _LONG.add(function.__name__)
    return function


def is_long(name: str) -> bool:
    """Tell whether a scenario is left to make soak."""
    return name in _LONG


def pair_of(name: str) -> Pair:
    """Return the programs that a scenario is run on."""
    return SYSTEM if name in _ON_SYSTEM else STORAGE_DAEMON


def load(module: str | None = None) -> dict[str, Scenario]:
    """Return the scenarios of one module of ``scenarios/``, by default of all."""
    package = importlib.import_module("tests.oracle.scenarios")
    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{info.name}")
    return {
        name: function
        for name, function in _SCENARIOS.items()
        if module is None or function.__module__ == f"{package.__name__}.{module}"
    }


def stops(transcript: list[str]) -> list[str]:
    """Return the lines that say why a scenario could not go on.

    What both programs fail to do, or are waited for in vain, says nothing, however equal it is.
    """
    return [line for line in transcript if line.startswith(_STOPPED)]


def run(name: str, program: Program) -> list[str]:
    """Run a scenario and return its transcript, which ends with how the program ended."""
    return run_function(load()[name], program)


def run_function(function: Scenario, program: Program) -> list[str]:
    """Do the same with a scenario that has no name."""
    path = program.path()
    if path is None:
        raise FileNotFoundError(program.command)
    for attempt in range(_ATTEMPTS):
        try:
            transcript = _attempt(function, path, program.machine)
            return transcript.lines(delayed_commands=program.delayed_commands)
        except UnsettledError as error:
            # Only QEMU is known to have the race; ours must never show it.
            if not program.delayed_commands or attempt == _ATTEMPTS - 1:
                return [f"{_STOPPED}{error}"]
    raise AssertionError("unreachable")


def _attempt(function: Scenario, path: str, machine: tuple[str, ...] | None) -> Transcript:
    with Session(path, machine) as session:
        try:
            function(session)
            session.finish()
        except StoppedError as stopped:
            session.transcript.add(f"{_STOPPED}{stopped}")
            session.collect_stderr()
    return session.transcript
