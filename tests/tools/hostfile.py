"""Image files on the host: who locks them, how much they occupy, and QEMU as the other user."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.qapi.blockdev import validate_blockdev

needs_qemu = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("qemu-io", "qemu-img", "qemu-storage-daemon")),
    reason="needs qemu-io, qemu-img and qemu-storage-daemon",
)


def locked_bytes(path: Path) -> set[int]:
    """Return the bytes of a file that open file descriptions hold read locks on."""
    inode = path.stat().st_ino
    found: set[int] = set()
    for line in Path("/proc/locks").read_text().splitlines():
        match = re.search(r"OFDLCK +ADVISORY +READ .*:(\d+) (\d+) (\d+)$", line)
        if match and int(match[1]) == inode:
            found |= set(range(int(match[2]), int(match[3]) + 1))
    return found


def occupied(path: Path) -> int:
    """Return the bytes that a file occupies on its file system."""
    return path.stat().st_blocks * 512


def qemu_io(path: Path, *commands: str, options: str = "-f raw") -> str:
    """Run commands; return all that is printed, errors as well."""
    words = ["qemu-io", *options.split(), *(w for c in commands for w in ("-c", c)), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=50)
    return done.stdout + done.stderr


@contextmanager
def qemu_holds(*options: str) -> Iterator[None]:
    """Run a qemu-storage-daemon with these options while the block runs."""
    monitor = ("--chardev", "stdio,id=m", "--monitor", "m")
    with subprocess.Popen(
        ["qemu-storage-daemon", *options, *monitor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            # The options are taken in order: the greeting says that all is open.
            assert process.stdout is not None
            assert b"QMP" in process.stdout.readline()
            yield
        finally:
            process.terminate()


def buffer(content: bytes) -> memoryview:
    """Return memory as clients' data is in: io_uring, which serves them, takes no other."""
    return memoryview(bytearray(content))


async def add_file(graph: Graph, path: Path, name: str = "file", **options: Any) -> Node:
    """Add a node over a file; ``cache`` and the others as QAPI has them."""
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    given = {"driver": "file", "filename": str(path), "node-name": name, **wire}
    return await graph.add(validate_blockdev(given))
