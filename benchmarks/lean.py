"""Reads by a client that takes less time for them than the servers do.

fio needs 12 us for each 4 KiB that it reads over NBD, so that on two processors a server that
needs less can't show it. ``lean_reader`` needs 2.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from typing import Final

from benchmarks.fio import Load
from benchmarks.model import MeasurementError
from benchmarks.peers import child, last_words

_PATIENCE_S: Final = 120.0
_PROGRAM: Final = Path(__file__).with_name("lean_reader.py")


def rate(uri: str, load: Load, seconds: float, folder: Path) -> float:
    """Read at random for a while, a program for each connection; return the reads a second.

    Raises:
        MeasurementError: A reply was not what was asked for.
    """
    assert load.rw == "randread"
    words = (sys.executable, _PROGRAM, uri, load.block, load.depth, seconds)
    total = 0.0
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                child(*words, number, folder=folder, errors=folder / f"lean-{number}", output=PIPE)
            )
            for number in range(load.connections)
        ]
        for number, reader in enumerate(readers):
            output, _ = reader.communicate(timeout=_PATIENCE_S)
            if reader.returncode:
                said = last_words(folder / f"lean-{number}")
                raise MeasurementError(f"{_PROGRAM.name} failed: {said}")
            total += float(output)
    return total
