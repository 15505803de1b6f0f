"""Reading, writing and flushing."""

import asyncio
import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.eager import DONE
from qmpfleece.base.workers import Workers
from qmpfleece.block import reopen
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.graph import Graph
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.drivers.file.conftest import SIZE, R, W, file_size_limit, flags_of, read
from tests.tools.hold import hold
from tests.tools.hostfile import add_file, buffer
from tests.tools.until import settle
from tests.tools.uring import needs_uring

# -- reading and writing -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1000, 5000])
@pytest.mark.parametrize("direct", [False, True])
async def test_file_of_any_size_is_read_as_whole_sectors(graph, attach, tmp_path, size, direct):
    path = tmp_path / "odd"
    content = os.urandom(size)
    path.write_bytes(content)
    backend = await attach(path, cache={"direct": direct})
    length = -(-size // 512) * 512
    assert backend.length == length
    assert await read(backend, 0, length) == content.ljust(length, b"\0")
    if size > 10:
        assert await read(backend, size - 10, length - size + 10) == content[-10:].ljust(
            length - size + 10, b"\0"
        )
        assert await read(backend, length - 1, 1) == content.ljust(length, b"\0")[-1:]
        await backend.pwrite(length - 1, buffer(b"x"))
        expected = content.ljust(length, b"\0")[: length - 1] + b"x"
        assert path.read_bytes()[:length] == expected


async def test_cached_data_is_read_in_place(attach, image):
    content = image.read_bytes()  # now it is in the cache
    backend = await attach(image)
    buf = bytearray(SIZE)
    assert backend.pread(0, memoryview(buf)) is DONE
    assert buf == content


async def test_what_is_not_in_the_cache_comes_from_a_thread(attach, image):
    content = image.read_bytes()
    with image.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, SIZE, os.POSIX_FADV_DONTNEED)
        os.pread(file.fileno(), 10, 0)  # part of it is in again
    backend = await attach(image)
    assert await read(backend, 0, SIZE) == content


async def test_file_system_that_can_not_say_what_it_caches_is_asked_once(
    attach, image, monkeypatch
):
    real, asked = os.preadv, []

    def preadv(fd, buffers, offset, flags=0):
        if flags & os.RWF_NOWAIT:
            asked.append(offset)
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    backend = await attach(image)
    for offset in (0, 512, 1024):
        assert await read(backend, offset, 512) == image.read_bytes()[offset : offset + 512]
    assert asked == [0]


async def test_short_reads_and_writes_are_carried_on(attach, image, monkeypatch):
    preadv, pwritev = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, b, o, f=0: preadv(fd, [b[0][:700]], o, f))
    monkeypatch.setattr(os, "pwritev", lambda fd, b, o, f=0: pwritev(fd, [b[0][:700]], o, f))
    backend = await attach(image, aio="threads")
    data = os.urandom(10_000)
    await backend.pwrite(123, buffer(data))
    assert await read(backend, 123, 10_000) == data
    assert image.read_bytes()[123:10_123] == data


@pytest.mark.parametrize(
    "aio",
    [
        "threads",
        pytest.param("io_uring", marks=needs_uring),
        pytest.param(None, marks=needs_uring),
    ],
)
async def test_writes_land_in_order_whatever_makes_them(attach, image, aio):
    backend = await attach(image, **({"aio": aio} if aio else {}))
    assert (backend.node.driver._ring is None) == (aio == "threads")
    content = bytearray(image.read_bytes())
    for turn in range(20):
        pieces = [(turn * 997 + index * 4099, os.urandom(4099 - turn)) for index in range(40)]
        writes = [backend.pwrite(offset, buffer(data)) for offset, data in pieces]
        await asyncio.gather(*writes)
        for offset, data in pieces:
            content[offset : offset + len(data)] = data
    assert image.read_bytes() == content
    assert await read(backend, 0, SIZE) == content


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
async def test_write_cut_short_by_the_system_fails_with_its_reason(attach, image, aio):
    backend = await attach(image, aio=aio)
    with file_size_limit(SIZE // 2), pytest.raises(OSError, match="File too large") as caught:
        await backend.pwrite(SIZE // 2 - 1000, buffer(b"x" * 4096))
    assert caught.value.errno == errno.EFBIG
    assert image.read_bytes()[SIZE // 2 - 1000 : SIZE // 2] == b"x" * 1000


async def test_file_that_has_become_shorter_reads_as_zeroes(attach, image):
    backend = await attach(image)
    content = image.read_bytes()
    os.truncate(image, 1000)
    assert await read(backend, 0, 2000) == content[:1000] + bytes(1000)
    assert await read(backend, SIZE - 512, 512) == bytes(512)
    extents = await backend.block_status(0, SIZE, 10)
    assert sum(extent.length for extent in extents) == SIZE
    assert extents[-1].flags & Status.ZERO
    await backend.pwrite(SIZE - 3, buffer(b"end"))
    assert image.stat().st_size == SIZE


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "zero", "unmap", "read", "fua", "flush"]),
            st.integers(0, 70_000),
            st.integers(0, 20_000),
        ),
        max_size=12,
    ),
    st.sampled_from([0, 700, 4096, 66_000, 65_536]),
    st.booleans(),
)
def test_random_requests_leave_what_a_byte_array_would_hold(operations, size, direct):
    async def main(path):
        workers = Workers()
        graph = Graph(workers)
        backend = Backend(graph, "guest", R | W)
        backend.attach(await add_file(graph, path, cache={"direct": direct}, discard="unmap"))
        length = backend.length
        model = bytearray(length)
        model[:size] = path.read_bytes()
        for number, (verb, start, wish) in enumerate(operations):
            offset = min(start, length)
            span = min(wish, length - offset)
            data = bytes([number + 1]) * span
            match verb:
                case "write" | "fua":
                    flags = ReqFlags.FUA if verb == "fua" else 0
                    await backend.pwrite(offset, buffer(data), flags)
                    model[offset : offset + span] = data
                case "zero" | "unmap":
                    flags = ReqFlags.MAY_UNMAP if verb == "unmap" else 0
                    await backend.pwrite_zeroes(offset, span, flags)
                    model[offset : offset + span] = bytes(span)
                case "flush":
                    await backend.flush()
            assert await read(backend, offset, span) == model[offset : offset + span]
        assert await read(backend, 0, length) == model
        await backend.detach()
        await graph.close()
        workers.close()
        content = path.read_bytes()
        assert content[:length].ljust(length, b"\0") == model
        assert not any(content[length:])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(os.urandom(size))
        asyncio.run(main(path))


async def test_requests_side_by_side_under_direct_io(attach, image):
    backend = await attach(image, cache={"direct": True})
    assert backend.node.tracks  # from the start: the first unaligned write may meet others
    model = bytearray(image.read_bytes())
    requests = []
    for number, offset in enumerate(range(0, SIZE - 3000, 3000)):
        data = bytes([number % 256]) * 2999
        model[offset : offset + 2999] = data
        requests.append(backend.pwrite(offset, buffer(data)))
    await asyncio.gather(*requests)
    assert image.read_bytes() == model
    assert flags_of(backend.node) & os.O_DIRECT


# -- flushes -------------------------------------------------------------------------------


@pytest.fixture
def syncs(monkeypatch):
    seen = []
    real_sync, real_write = os.fdatasync, os.pwritev

    def pwritev(fd, buffers, offset, flags=0):
        if flags & os.RWF_DSYNC:
            seen.append("write")
        return real_write(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "fdatasync", lambda fd: (seen.append("flush"), real_sync(fd))[1])
    monkeypatch.setattr(os, "pwritev", pwritev)
    return seen


@pytest.mark.parametrize("no_flush", [False, True])
async def test_flush_and_fua_reach_the_disk_unless_they_are_ignored(
    attach, image, syncs, no_flush
):
    backend = await attach(image, cache={"no-flush": no_flush})
    await backend.pwrite(0, buffer(b"x"))
    await backend.flush()
    await backend.pwrite(0, buffer(b"x"), ReqFlags.FUA)
    await backend.pwrite_zeroes(0, 512, ReqFlags.FUA)
    assert syncs == ([] if no_flush else ["flush", "write", "flush"])


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINVAL])
async def test_failed_flush_is_never_followed_by_a_good_one(attach, image, monkeypatch, code):
    """After a failed writeback the kernel forgets which pages are not on the disk.

    QEMU, whose fdatasync a preloaded library lets fail once, repeats any error.
    """
    backend = await attach(image)
    real = os.fdatasync

    def fail(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fdatasync", fail)
    await backend.pwrite(0, buffer(b"x"))
    with pytest.raises(OSError, match=os.strerror(code)):
        await backend.flush()
    monkeypatch.setattr(os, "fdatasync", real)
    await backend.pwrite(0, buffer(b"x"))
    with pytest.raises(OSError, match=os.strerror(code)):
        await backend.flush()


async def test_failed_fua_write_is_never_followed_by_a_good_flush(attach, image, monkeypatch):
    """The kernel tells of a failed writeback once, and that was to the write."""
    backend = await attach(image)
    real = os.pwritev

    def fail(*args: object):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(OSError, match="Input/output"):
        await backend.pwrite(0, buffer(b"x"), ReqFlags.FUA)
    monkeypatch.setattr(os, "pwritev", real)
    await backend.pwrite(0, buffer(b"y"))
    with pytest.raises(OSError, match="Input/output"):
        await backend.flush()
    with pytest.raises(OSError, match="Input/output"):
        await backend.pwrite(0, buffer(b"z"), ReqFlags.FUA)
    assert image.read_bytes()[:1] == b"z"


async def test_fua_write_without_space_says_nothing_about_others(attach, image, monkeypatch):
    backend = await attach(image)
    real = os.pwritev

    def fail(*args: object):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(OSError, match="No space"):
        await backend.pwrite(0, buffer(b"x"), ReqFlags.FUA)
    monkeypatch.setattr(os, "pwritev", real)
    await backend.pwrite(0, buffer(b"y"), ReqFlags.FUA)
    await backend.flush()


async def test_writes_of_one_block_keep_apart_from_a_reopening_for_direct_io_on(
    graph, attach, image
):
    """A part of a block is written with what was read around it."""
    backend = await attach(image)
    given = {"driver": "file", "node-name": "file", "filename": str(image)}
    direct = validate_blockdev({**given, "cache": {"direct": True}})
    await reopen.reopen(graph, [direct])
    assert graph.find("file").request_alignment > 1
    gate, let_go = hold(graph.find("file").driver, "pwrite")
    whole = await gate.stops(backend.pwrite(0, buffer(b"x" * 4096)))
    let_go()
    part = asyncio.ensure_future(backend.pwrite(100, buffer(b"y")))
    await settle()
    gate.set()
    await asyncio.gather(whole, part)
    assert image.read_bytes()[:4096] == b"x" * 100 + b"y" + b"x" * 3995
