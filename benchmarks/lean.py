"""Loads made by a client that takes less time for them than the servers do.

fio needs 12 us for each 4 KiB that it reads over NBD, and 24 us for each that it writes, so that
on two processors it is a good part of what is measured. ``lean_client`` needs 2 and 12.
"""

import array
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Final

from benchmarks.fio import Load
from benchmarks.model import MeasurementError
from benchmarks.peers import child, last_words

_PATIENCE_S: Final = 120.0
_PROGRAM: Final = Path(__file__).with_name("lean_client.py")


def rate(uri: str, load: Load, seconds: float, folder: Path) -> float:
    """Read at random for a while; return the reads a second.

    Raises:
        MeasurementError: A reply was not what was asked for.
    """
    assert load.rw == "randread"
    return _run(folder, "read", uri, load, seconds)


def write_once(uri: str, offsets: Sequence[int], load: Load, folder: Path) -> float:
    """Write at each offset, in this order; they are dealt out to the connections.

    Returns:
        The writes a second, all of which were answered.

    Raises:
        MeasurementError: A write has failed.
    """
    assert load.rw == "randwrite"
    places = folder / "offsets"
    places.write_bytes(array.array("Q", offsets).tobytes())
    return _run(folder, "write", uri, load, places)


def _run(folder: Path, verb: str, uri: str, load: Load, last: object) -> float:
    words = (sys.executable, _PROGRAM, verb, uri, load.block, load.depth, load.connections, last)
    errors = folder / "lean.errors"
    with child(*words, folder=folder, errors=errors, output=PIPE) as client:
        output, _ = client.communicate(timeout=_PATIENCE_S)
    if client.returncode:
        raise MeasurementError(f"{_PROGRAM.name} failed: {last_words(errors)}")
    return float(output)
