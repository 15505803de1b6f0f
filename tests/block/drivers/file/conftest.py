"""Files of the host, and who holds them."""

import os
import resource
import signal
from contextlib import contextmanager

import pytest

from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from tests.tools.hostfile import add_file

R, W, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.ALL
KIB = 1024
SIZE = 256 * KIB


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def attach(graph):
    """Open a file and hold it for reading and writing."""

    async def attach_it(path, perm=R | W, **options: object):
        backend = Backend(graph, "guest", perm)
        backend.attach(await add_file(graph, path, **options))
        return backend

    return attach_it


async def read(backend, offset, length):
    buf = bytearray(b"\xaa" * length)
    await backend.pread(offset, memoryview(buf))
    return bytes(buf)


def flags_of(node):
    """Return the open flags of the node's file description."""
    with open(f"/proc/self/fdinfo/{node.driver._fd}") as info:
        return int(next(line.split()[1] for line in info if line.startswith("flags:")), 8)


def locks_of(fd):
    """Return how many locks a file description holds."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return sum(line.startswith("lock:") for line in info)


@contextmanager
def file_size_limit(limit):
    """Let writes past the limit fail with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
