"""Loads made by a client that takes less time for them than the servers do.

fio needs 12 us for each 4 KiB that it reads over NBD, and 24 us for each that it writes, so that
on two processors it is a good part of what is measured. ``lean_client`` needs 2 and 5.
"""

import array
import fcntl
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Final

from benchmarks.fio import Load
from benchmarks.model import MeasurementError
from benchmarks.peers import child, last_words

_PATIENCE_S: Final = 120.0
_PROGRAM: Final = Path(__file__).with_name("lean_client.py")


class _Client:
    """One connection: a program that runs as long as the block that enters it."""

    def __init__(self, folder: Path, number: int, verb: str, uri: str, load: Load) -> None:
        self._folder: Final = folder
        self._errors: Final = folder / f"lean-{number}"
        self._words: Final = (sys.executable, _PROGRAM, verb, uri, load.block, load.depth)

    def start(self, stack: ExitStack, *more: object) -> None:
        """Run it until the end of the stack."""
        run = child(*self._words, *more, folder=self._folder, errors=self._errors, output=PIPE)
        self._process = stack.enter_context(run)

    def ready(self) -> None:
        """Wait for its first line, or its end."""
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def figures(self) -> list[float]:
        """Wait for its end; return what it has printed last.

        Raises:
            MeasurementError: It has failed.
        """
        output, _ = self._process.communicate(timeout=_PATIENCE_S)
        if self._process.returncode:
            raise MeasurementError(f"{_PROGRAM.name} failed: {last_words(self._errors)}")
        return [float(word) for word in output.split()]


def rate(uri: str, load: Load, seconds: float, folder: Path) -> float:
    """Read at random for a while, a program for each connection; return the reads a second.

    Raises:
        MeasurementError: A reply was not what was asked for.
    """
    assert load.rw == "randread"
    clients = [_Client(folder, number, "read", uri, load) for number in range(load.connections)]
    with ExitStack() as stack:
        for seed, client in enumerate(clients):
            client.start(stack, seconds, seed)
        return sum(sum(client.figures()) for client in clients)


def write_once(uri: str, offsets: Sequence[int], load: Load, folder: Path) -> float:
    """Write at each offset, in this order; they are dealt out to the connections.

    Returns:
        The writes a second, all of which were answered.

    Raises:
        MeasurementError: A write has failed.
    """
    assert load.rw == "randwrite"
    clients = [_Client(folder, number, "write", uri, load) for number in range(load.connections)]
    with ExitStack() as stack:
        with ExitStack() as locks:
            for number, client in enumerate(clients):
                own = locks.enter_context((folder / f"offsets-{number}").open("w+b"))
                fcntl.flock(own, fcntl.LOCK_EX)  # holds the client back until all are ready
                array.array("Q", offsets[number :: load.connections]).tofile(own)
                own.flush()
                client.start(stack, own.name)
            for client in clients:
                client.ready()
        begins, ends = zip(*(client.figures() for client in clients), strict=True)
    return len(offsets) / (max(ends) - min(begins))
