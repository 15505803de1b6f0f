"""Holes in files, on the file systems that are at hand."""

import contextlib
import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest

from qmpfleece.block.hostfile import allocation, extents
from tests.tools.hostfile import occupied
from tests.tools.programs import needs, run

BLOCK = 4096
SIZE = 16 * BLOCK


@pytest.fixture(params=["disk", "tmpfs"])
def path(request, tmp_path):
    """A full file, on the disk's file system and on tmpfs."""
    if request.param == "disk":
        folder = contextlib.nullcontext(tmp_path)
    elif os.access("/dev/shm", os.W_OK):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
    else:
        pytest.skip("no tmpfs")
    with folder as name:
        path = Path(name) / "image"
        with path.open("wb") as file:
            file.write(b"x" * SIZE)
            file.flush()
            os.fsync(file.fileno())
        yield path


@pytest.fixture
def fd(path):
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_discard_gives_the_space_back(path, fd):
    before = occupied(path)
    allocation.discard(fd, BLOCK, 2 * BLOCK)
    assert occupied(path) == before - 2 * BLOCK
    assert path.read_bytes() == b"x" * BLOCK + bytes(2 * BLOCK) + b"x" * (SIZE - 3 * BLOCK)


def test_discard_past_the_end_does_not_grow_the_file(path, fd):
    allocation.discard(fd, SIZE - BLOCK, 10 * BLOCK)
    assert path.stat().st_size == SIZE


@pytest.mark.parametrize("unmap", [True, False])
def test_zeroes_give_space_back_only_when_they_may(path, fd, unmap):
    before = occupied(path)
    allocation.write_zeroes(fd, BLOCK, 2 * BLOCK, unmap=unmap)
    assert path.read_bytes() == b"x" * BLOCK + bytes(2 * BLOCK) + b"x" * (SIZE - 3 * BLOCK)
    assert occupied(path) == before - (2 * BLOCK if unmap else 0)


@pytest.mark.parametrize("unmap", [True, False])
@pytest.mark.parametrize("offset", [SIZE - BLOCK, SIZE, SIZE + 3 * BLOCK])
def test_zeroes_past_the_end_grow_the_file(path, fd, unmap, offset):
    allocation.write_zeroes(fd, offset, 2 * BLOCK, unmap=unmap)
    assert path.stat().st_size == offset + 2 * BLOCK
    expected = (b"x" * SIZE)[:offset].ljust(offset + 2 * BLOCK, b"\0")
    assert path.read_bytes() == expected


def test_zeroes_of_any_bytes_leave_their_neighbours(path, fd):
    allocation.write_zeroes(fd, 10, 20, unmap=True)
    allocation.write_zeroes(fd, 5000, 7, unmap=False)
    data = bytearray(b"x" * SIZE)
    data[10:30] = bytes(20)
    data[5000:5007] = bytes(7)
    assert path.read_bytes() == data


def test_error_carries_its_number(tmp_path):
    with (tmp_path / "image").open("wb") as file:
        file.truncate(SIZE)
    fd = os.open(tmp_path / "image", os.O_RDONLY)
    try:
        for call in (
            lambda: allocation.discard(fd, 0, BLOCK),
            lambda: allocation.write_zeroes(fd, 0, BLOCK, unmap=True),
        ):
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                call()
            assert caught.value.errno == errno.EBADF
    finally:
        os.close(fd)


def test_what_is_neither_file_nor_disk_supports_nothing():
    with open("/dev/null", "r+b") as device:
        for call in (
            lambda: allocation.discard(device.fileno(), 0, BLOCK),
            lambda: allocation.write_zeroes(device.fileno(), 0, BLOCK, unmap=True),
            lambda: allocation.write_zeroes(device.fileno(), 0, BLOCK, unmap=False),
        ):
            with pytest.raises(OSError, match="not supported") as caught:
                call()
            assert caught.value.errno == errno.ENOTSUP


def test_block_devices_are_discarded_and_zeroed(tmp_path, loop_device):
    image = tmp_path / "device"
    image.write_bytes(b"x" * (1 << 20))
    fd = os.open(loop_device(image), os.O_RDWR)
    try:
        allocation.discard(fd, 0, 65536)
        allocation.write_zeroes(fd, 65536, 65536, unmap=True)
        allocation.write_zeroes(fd, 131072, 65536, unmap=False)
        allocation.write_zeroes(fd, 196608, 65536, unmap=True, fast=True)
        with pytest.raises(OSError, match="not supported"):
            allocation.write_zeroes(fd, 262144, 65536, unmap=False, fast=True)
        with pytest.raises(OSError, match="not supported"):  # not whole sectors
            allocation.write_zeroes(fd, 100, 100, unmap=False)
        os.fsync(fd)
        assert extents.find(fd, 0, 1 << 20, 10, mapped=False) == [(0, extents.DATA, extents.FAR)]
    finally:
        os.close(fd)
    assert image.read_bytes() == bytes(262144) + b"x" * ((1 << 20) - 262144)


_ZERO = """
import os
import sys
from qmpfleece.block.hostfile import allocation
allocation.write_zeroes(os.open(sys.argv[1], os.O_RDWR), 0, 65536, unmap=True)
"""


@needs("strace", "qemu-io")
@pytest.mark.parametrize(
    ("code", "zeroes"), [("EBUSY", True), ("EINVAL", True), ("EOPNOTSUPP", True), ("EIO", False)]
)
def test_zeroes_are_written_where_no_hole_can_be_made_now(tmp_path, code, zeroes):
    image = tmp_path / "image"
    failing = ("-f", "-o", tmp_path / "calls", "-e", f"inject=fallocate:error={code}:when=1")
    for program in (
        (sys.executable, "-c", _ZERO, image),
        ("qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -z -u 0 64k", image),
    ):
        image.write_bytes(b"x" * 65536)
        done = run("strace", *failing, *program)
        if "ptrace" in done.stderr:
            pytest.skip("nobody may be traced here")
        assert (image.read_bytes() == bytes(65536), done.returncode == 0) == (zeroes, zeroes)
