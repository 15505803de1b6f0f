"""io_uring: what is written is there, errors, more than fits, nothing left behind."""

import asyncio
import errno
import os
import random
import subprocess
import sys

import pytest
import pytest_asyncio

from qmpfleece.base.uring import queues, writes
from qmpfleece.base.workers import Workers
from tests.tools.uring import needs_uring

pytestmark = needs_uring


@pytest.fixture
def fd(tmp_path):
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield number
    os.close(number)


def no_thread(_fd, _buf, _offset):
    raise AssertionError("the kernel has threads enough")


@pytest_asyncio.fixture
async def ring():
    ring = writes.Ring(no_thread)
    yield ring
    ring.close()


def block(fill, size=512):
    return memoryview(bytearray([fill % 256]) * size)


async def test_writes_are_in_the_file_when_they_end(ring, fd):
    await asyncio.gather(*(ring.pwrite(fd, block(index), index * 512) for index in range(100)))
    assert os.pread(fd, 100 * 512, 0) == b"".join(bytes(block(index)) for index in range(100))


async def test_a_write_larger_than_a_page_and_at_an_odd_place_is_whole(ring, fd):
    data = memoryview(bytearray(random.Random(1).randbytes(3 * 4096 + 17)))
    await ring.pwrite(fd, data, 4096 * 5 + 3)
    assert os.pread(fd, len(data), 4096 * 5 + 3) == bytes(data)


async def test_more_writes_than_fit_all_end(ring, fd):
    count = writes._MAX_IN_FLIGHT + 700
    await asyncio.gather(*(ring.pwrite(fd, block(index, 8), index * 8) for index in range(count)))
    assert os.pread(fd, count * 8, 0) == b"".join(bytes(block(i, 8)) for i in range(count))


async def test_a_failing_write_says_why_and_harms_no_other(ring, fd, tmp_path):
    (tmp_path / "other").touch()
    read_only = os.open(tmp_path / "other", os.O_RDONLY)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        results = await asyncio.gather(
            ring.pwrite(fd, block(1), 0),
            ring.pwrite(read_only, block(1), 0),
            ring.pwrite(full, block(1), 0),
            ring.pwrite(fd, block(2), 512),
            return_exceptions=True,
        )
    finally:
        os.close(read_only)
        os.close(full)
    codes = [getattr(result, "errno", result) for result in results]
    assert codes == [None, errno.EBADF, errno.ENOSPC, None]


async def test_a_cancelled_task_ends_with_its_write(ring, fd):
    async def work():
        await ring.pwrite(fd, block(7), 0)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.pread(fd, 512, 0) == bytes(block(7))


async def test_the_end_of_a_few_writes_is_seen_without_sleep(ring, fd, monkeypatch):
    if not ring._deferred:
        pytest.skip("this kernel does not say when there is something to deliver")
    monkeypatch.setattr(writes, "_PATIENCE_NS", 60 * 10**9)
    loop = asyncio.get_running_loop()
    loop.remove_reader(ring._eventfd)  # nothing else can tell of it
    for count in range(1, writes._FEW + 1):
        await asyncio.wait_for(
            asyncio.gather(*(ring.pwrite(fd, block(i), 0) for i in range(count))), 20
        )
    assert ring._watching is None
    loop.add_reader(ring._eventfd, ring._completed)


async def test_the_loop_sleeps_while_many_or_slow_writes_are_made(ring, fd, monkeypatch):
    many = [ring.pwrite(fd, block(index), index * 512) for index in range(writes._FEW + 1)]
    ring._submit_rest()
    assert ring._watching is None
    await asyncio.gather(*many)
    monkeypatch.setattr(writes, "_PATIENCE_NS", 0)
    slow = ring.pwrite(fd, block(1), 0)
    ring._submit_rest()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ring._watching is None
    await slow


async def test_a_closed_ring_leaves_no_file_open():
    before = os.listdir("/proc/self/fd")
    ring = writes.Ring(no_thread)
    ring.close()
    assert os.listdir("/proc/self/fd") == before


async def test_without_io_uring_there_is_no_ring(monkeypatch):
    def refuse(_on_thread):
        raise OSError(errno.EPERM, "not allowed")

    monkeypatch.setattr("qmpfleece.base.uring.writes.Ring", refuse)
    workers = Workers()
    assert workers.ring is None
    workers.close()


async def test_workers_have_one_ring_and_close_it():
    before = os.listdir("/proc/self/fd")
    workers = Workers()
    assert workers.ring is not None
    assert workers.ring is workers.ring
    workers.close()
    assert os.listdir("/proc/self/fd") == before


async def test_what_the_kernel_writes_in_parts_is_written_whole(ring):
    """A pipe takes at first what it has room for, and the rest as it is emptied."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = memoryview(bytearray(random.Random(2).randbytes(300_000)))
    try:
        write = ring.pwrite(writing, data, 0)
        got = bytearray()
        while len(got) < len(data):
            got += await asyncio.to_thread(os.read, reading, 50_000)
        await write
    finally:
        os.close(reading)
        os.close(writing)
    assert got == data


@pytest.mark.parametrize("code", [errno.ECANCELED, errno.EAGAIN, errno.EINTR])
async def test_a_write_that_the_kernel_puts_off_is_made_by_a_thread(fd, monkeypatch, code):
    """No file makes it say so whenever it is asked, so its answer is changed here."""
    workers, made = Workers(), []

    def on_thread(fd, buf, offset):
        made.append((bytes(buf), offset))
        return workers.queue().submit(os.pwrite, fd, buf, offset)

    ring = writes.Ring(on_thread)
    take = ring._queues.take
    monkeypatch.setattr(
        ring._queues, "take", lambda limit: [(slot, -code, more) for slot, _, more in take(limit)]
    )
    try:
        await ring.pwrite(fd, block(5), 512)
        assert made == [(bytes(block(5)), 512)]
        assert os.pread(fd, 512, 512) == bytes(block(5))
    finally:
        ring.close()
        workers.close()


_AT_THE_LIMIT = """
import asyncio, os, resource, sys
from qmpfleece.base.workers import Workers

async def main():
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    workers = Workers()
    await workers.queue().submit(int)  # has a thread
    if not os.geteuid():  # for root there is no limit
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    parts = [memoryview(bytearray(b"%03d," % i)) for i in range(100)]
    await asyncio.gather(*(workers.ring.pwrite(fd, parts[i], i * 4) for i in range(100)))
    workers.close()

asyncio.run(main())
"""


def test_writes_succeed_while_the_kernel_may_not_start_a_thread(tmp_path):
    path = tmp_path / "file"
    subprocess.run([sys.executable, "-c", _AT_THE_LIMIT, path], check=True, timeout=60)
    assert path.read_bytes() == b"".join(b"%03d," % i for i in range(100))


_FORBIDDEN = """
import asyncio, ctypes, struct, sys
from qmpfleece.base.workers import Workers

number = int(sys.argv[1])
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in [
    (0x20, 0, 0, 0),           # load the number of the system call
    (0x15, 0, 1, number),      # if it is not this one, skip the next line
    (0x06, 0, 0, 0x00050001),  # EPERM
    (0x06, 0, 0, 0x7FFF0000),  # allowed
]))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
filter = struct.pack("HxxxxxxP", 4, ctypes.addressof(program))
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP

async def main():
    workers = Workers()
    assert workers.ring is None
    workers.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [queues._SETUP, queues._ENTER, queues._REGISTER])
def test_there_is_no_ring_where_a_system_call_of_it_is_forbidden(number):
    subprocess.run([sys.executable, "-c", _FORBIDDEN, str(number)], check=True, timeout=60)


async def test_a_kernel_that_knows_no_deferred_completions_writes_as_well(monkeypatch, fd):
    monkeypatch.setattr(writes, "_DEFERRED", 1 << 31)  # it refuses what it does not know
    ring = writes.Ring(no_thread)
    assert not ring._deferred
    try:
        await asyncio.gather(*(ring.pwrite(fd, block(i), i * 512) for i in range(50)))
    finally:
        ring.close()
    assert os.pread(fd, 50 * 512, 0) == b"".join(bytes(block(index)) for index in range(50))
