"""The files that are measured on; the same ones for every peer."""

import os
import random
import subprocess
from collections.abc import Iterable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from benchmarks.model import MeasurementError

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40
#: Of copy-before-write, backup and qcow2 alike.
CLUSTER: Final = 64 * 1024


def filled(path: Path, size: int) -> None:
    """Make a raw image without holes or zeroes."""
    noise = os.urandom(MIB)
    pieces = [noise[start : start + CLUSTER] for start in range(0, MIB, CLUSTER)]
    _write_in_pieces(path, islice(cycle(pieces), size // CLUSTER))


def _write_in_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file a cluster at a time, since that is how the page cache will keep it.

    What was written with 1 MiB at once lies in folios of as much, and then ext4 (Linux 6.18)
    takes 30 us for each 4 KiB that are written into one, for whoever is measured.
    """
    with path.open("wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)


def sparse(path: Path, size: int) -> None:
    """Make a raw image of holes."""
    with path.open("wb") as file:
        file.truncate(size)


def fragmented(path: Path, size: int, extents: int) -> None:
    """Make a raw image with 4 KiB of data at even distances, holes between."""
    step = size // extents // CLUSTER * CLUSTER
    sparse(path, size)
    with path.open("r+b") as file:
        for number in range(extents):
            os.pwrite(file.fileno(), b"\x5a" * 4096, number * step)


def scattered(path: Path, size: int, offsets: Iterable[int]) -> None:
    """Make a raw image with a cluster of data at each offset, holes between."""
    sparse(path, size)
    with path.open("r+b") as file:
        for offset in offsets:
            os.pwrite(file.fileno(), b"\x5a" * CLUSTER, offset)


def settle(path: Path) -> None:
    """Write a file back, so that nobody's measurement is disturbed by it."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())


def qcow2(path: Path, size: int) -> None:
    """Make an empty qcow2 image."""
    _img("create", "-q", "-f", "qcow2", str(path), str(size))


def qcow2_of(path: Path, raw: Path) -> None:
    """Make a qcow2 image of a raw one."""
    converted = path.with_suffix(".converted")
    _img("convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(converted))
    with converted.open("rb", buffering=0) as file:
        _write_in_pieces(path, iter(partial(file.read, CLUSTER), b""))
    converted.unlink()


def check(path: Path) -> None:
    """Look whether an image is sound.

    Raises:
        MeasurementError: It is not; clusters that leak are no fault.
    """
    done = subprocess.run(
        ["qemu-img", "check", "-q", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode not in {0, 3}:
        raise MeasurementError(f"qemu-img check: {done.stderr.decode(errors='replace').strip()}")


def warm(path: Path) -> None:
    """Bring a file without large holes to rest: written back, and in the page cache."""
    settle(path)
    with path.open("rb", buffering=0) as file:
        memory = bytearray(MIB)
        while file.readinto(memory):
            pass


def shuffled_clusters(size: int) -> list[int]:
    """Return an offset in every cluster, each once, in an order that is always the same."""
    order = list(range(size // CLUSTER))
    random.Random(0).shuffle(order)
    return [number * CLUSTER + number % 16 * 4096 for number in order]


def _img(*arguments: str) -> None:
    done = subprocess.run(
        ["qemu-img", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise MeasurementError(f"qemu-img: {done.stderr.decode(errors='replace').strip()}")
