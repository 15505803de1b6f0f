"""file and host_device on real files."""

import asyncio
import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.conftest import open_files
from tests.tools.hostfile import add_file, needs_qemu, occupied, qemu_holds
from tests.tools.memory import hold, settle

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


# -- opening --------------------------------------------------------------------------------


async def refused(graph, filename, driver="file", **options: object):
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    given = {"driver": driver, "node-name": "n", "filename": str(filename), **wire}
    files = open_files()
    with pytest.raises(QmpError) as caught:
        await graph.add(validate_blockdev(given))
    assert open_files() == files
    assert graph.nodes() == []
    return caught.value.desc


async def test_what_is_no_image_is_refused_in_qemus_words(graph, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
    (tmp_path / "plain").touch()
    texts = {
        ("none", False): "Could not open 'none': No such file or directory",
        ("", False): "The 'file' block driver requires a file name",
        (tmp_path, False): f"Could not open '{tmp_path}': Is a directory",
        (tmp_path, True): f"'file' driver requires '{tmp_path}' to be a regular file",
        (tmp_path / "fifo", False): f"'file' driver requires '{tmp_path}/fifo' to be a regular"
        " file",
        (tmp_path / "fifo", True): f"'file' driver requires '{tmp_path}/fifo' to be a regular"
        " file",
        (tmp_path / "sock", False): f"Could not open '{tmp_path}/sock': No such device or address",
        ("/dev/null", False): "'file' driver requires '/dev/null' to be a regular file",
        ("plain\0", False): "Could not open 'plain\0': embedded null byte",
    }
    for (filename, read_only), text in texts.items():
        assert await refused(graph, filename, read_only=read_only) == text
    for name in ("plain", "fifo"):
        assert await refused(graph, tmp_path / name, "host_device") == (
            f"'host_device' driver requires '{tmp_path / name}' to be either a character or block"
            " device"
        )


async def test_options_that_contradict_are_refused(graph, image):
    assert await refused(graph, image, aio="native") == (
        "aio=native was specified, but it requires cache.direct=on, which was not specified."
    )
    assert await refused(graph, image, force_share=True) == (
        "force-share=on can only be used with read-only images"
    )
    assert await refused(graph, image, detect_zeroes="unmap") == (
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
    )


async def test_host_device_takes_a_character_device_as_an_empty_disk(graph):
    given = {"driver": "host_device", "node-name": "n", "filename": "/dev/null"}
    node = await graph.add(validate_blockdev(given))
    assert node.length == 0
    assert node.exact_filename == "/dev/null"


async def test_cancelled_opening_leaves_no_file_open(graph, image):
    files = open_files()
    for turns in range(6):
        task = asyncio.ensure_future(add_file(graph, image))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            assert graph.nodes() == []
        else:
            await graph.delete("file")
        assert open_files() == files


# -- read-only, auto-read-only --------------------------------------------------------------


async def test_file_is_held_writable_only_while_somebody_writes(graph, image):
    node = await add_file(graph, image, auto_read_only=True)
    assert not node.read_only
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY
    edge = hold(graph, node, R | W)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDWR
    graph.detach(edge)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY
    os.unlink(image)  # the file is opened anew by its descriptor, not by its name
    hold(graph, node, R | W)
    assert flags_of(node) & (os.O_ACCMODE | os.O_CLOEXEC) == os.O_RDWR | os.O_CLOEXEC


async def test_reads_go_on_while_the_file_is_opened_anew(graph, image, monkeypatch):
    reader = Backend(graph, "reader")
    reader.attach(node := await add_file(graph, image, auto_read_only=True))
    node.driver._nowait = 0  # all reads through the threads
    content = image.read_bytes()
    done = 0

    async def read_on():
        nonlocal done
        for offset in range(0, SIZE, 4 * KIB):
            assert await read(reader, offset, 4 * KIB) == content[offset : offset + 4 * KIB]
            done += 1

    tasks = [asyncio.ensure_future(read_on()) for _ in range(4)]
    switches = 0
    while not all(task.done() for task in tasks):
        edge = hold(graph, node, R | W)
        await asyncio.sleep(0)
        graph.detach(edge)
        await asyncio.sleep(0)
        switches += 1
    await asyncio.gather(*tasks)
    assert done == 4 * SIZE // (4 * KIB)
    assert switches > 5


async def test_detaching_a_writer_waits_for_its_writes(graph, image, monkeypatch):
    backend = Backend(graph, "guest", R | W)
    backend.attach(node := await add_file(graph, image, auto_read_only=True))
    may_write = threading.Event()
    real = os.pwritev

    def slow(*args: object):
        may_write.wait()
        return real(*args)

    monkeypatch.setattr(os, "pwritev", slow)
    write = asyncio.ensure_future(backend.pwrite(0, memoryview(b"new")))
    await settle()
    detach = asyncio.ensure_future(backend.detach())
    await settle()
    assert not detach.done()
    late = asyncio.ensure_future(backend.pwrite(0, memoryview(b"too late")))
    await settle()
    assert flags_of(node) & os.O_ACCMODE == os.O_RDWR
    may_write.set()
    await asyncio.gather(write, detach)
    with pytest.raises(OSError, match="No medium found"):
        await late
    assert image.read_bytes()[:8] != b"too late"
    assert image.read_bytes()[:3] == b"new"
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY


@pytest.fixture
def read_only_mount(image, tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    words = ["mount", "--bind", tmp_path, mount]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
    yield mount / image.name
    subprocess.run(["umount", "-l", mount], check=True)


async def test_file_that_can_not_be_written(graph, read_only_mount):
    text = f"Could not open '{read_only_mount}': Read-only file system"
    assert await refused(graph, read_only_mount) == text
    node = await add_file(graph, read_only_mount, auto_read_only=True)
    files = open_files()
    with pytest.raises(QmpError) as caught:
        hold(graph, node, R | W)
    assert caught.value.desc == text
    assert node.parents == []
    assert open_files() == files
    hold(graph, node, R)
    read_only = await add_file(graph, read_only_mount, "second", read_only=True)
    with pytest.raises(QmpError, match="Block node is read-only"):
        hold(graph, read_only, W)


async def test_detaching_a_writer_without_a_free_descriptor_keeps_the_file_writable(graph, image):
    node = await add_file(graph, image, auto_read_only=True)
    edge = hold(graph, node, R | W)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        graph.detach(edge)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    edge = hold(graph, node, R | W)
    graph.detach(edge)
    assert flags_of(node) & os.O_ACCMODE == os.O_RDONLY


# -- reading and writing --------------------------------------------------------------------


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
        await backend.pwrite(length - 1, memoryview(b"x"))
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
    backend = await attach(image)
    data = os.urandom(10_000)
    await backend.pwrite(123, memoryview(data))
    assert await read(backend, 123, 10_000) == data
    assert image.read_bytes()[123:10_123] == data


@pytest.mark.parametrize("aio", ["threads", "io_uring", None])
async def test_writes_land_in_order_whatever_makes_them(attach, image, aio):
    backend = await attach(image, **({"aio": aio} if aio else {}))
    assert (backend.node.driver._ring is None) == (aio == "threads")
    content = bytearray(image.read_bytes())
    for turn in range(20):
        pieces = [(turn * 997 + index * 4099, os.urandom(4099 - turn)) for index in range(40)]
        writes = [backend.pwrite(offset, memoryview(bytearray(data))) for offset, data in pieces]
        await asyncio.gather(*writes)
        for offset, data in pieces:
            content[offset : offset + len(data)] = data
    assert image.read_bytes() == content
    assert await read(backend, 0, SIZE) == content


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
async def test_write_cut_short_by_the_system_fails_with_its_reason(attach, image, aio):
    backend = await attach(image, aio=aio)
    with file_size_limit(SIZE // 2), pytest.raises(OSError, match="File too large") as caught:
        await backend.pwrite(SIZE // 2 - 1000, memoryview(bytearray(b"x" * 4096)))
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
    await backend.pwrite(SIZE - 3, memoryview(b"end"))
    assert image.stat().st_size == SIZE


@settings(max_examples=100, deadline=None)
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
                    await backend.pwrite(offset, memoryview(data), flags)
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
        requests.append(backend.pwrite(offset, memoryview(data)))
    await asyncio.gather(*requests)
    assert image.read_bytes() == model
    assert flags_of(backend.node) & os.O_DIRECT


# -- flushes --------------------------------------------------------------------------------


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
    await backend.pwrite(0, memoryview(b"x"))
    await backend.flush()
    await backend.pwrite(0, memoryview(b"x"), ReqFlags.FUA)
    await backend.pwrite_zeroes(0, 512, ReqFlags.FUA)
    assert syncs == ([] if no_flush else ["flush", "write", "flush"])


async def test_failed_flush_is_never_followed_by_a_good_one(attach, image, monkeypatch):
    """After a failed writeback the kernel forgets which pages are not on the disk."""
    backend = await attach(image)
    real = os.fdatasync

    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    await backend.pwrite(0, memoryview(b"x"))
    with pytest.raises(OSError, match="Input/output"):
        await backend.flush()
    monkeypatch.setattr(os, "fdatasync", real)
    await backend.pwrite(0, memoryview(b"x"))
    with pytest.raises(OSError, match="Input/output"):
        await backend.flush()


# -- zeroes and discard ---------------------------------------------------------------------


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
async def test_discard_frees_space_only_where_it_is_passed(attach, image, discard):
    os.sync()
    backend = await attach(image, discard=discard)
    before = occupied(image)
    await backend.pdiscard(0, 64 * KIB)
    await backend.pwrite_zeroes(128 * KIB, 64 * KIB, ReqFlags.MAY_UNMAP)
    freed = before - occupied(image)
    # As in QEMU, the option decides about discards alone where an export is the node's user.
    assert freed == (128 * KIB if discard == "unmap" else 64 * KIB)
    assert await read(backend, 128 * KIB, 64 * KIB) == bytes(64 * KIB)
    assert await backend.node.driver.allocated_size() == occupied(image)


@pytest.mark.parametrize(("detect", "freed"), [("off", 0), ("on", 0), ("unmap", 64 * KIB)])
async def test_detected_zeroes_free_space_when_they_may(attach, image, detect, freed):
    os.sync()
    backend = await attach(image, discard="unmap", detect_zeroes=detect)
    before = occupied(image)
    await backend.pwrite(0, memoryview(bytes(64 * KIB)))
    assert before - occupied(image) == freed
    assert image.read_bytes()[: 64 * KIB] == bytes(64 * KIB)


async def test_block_status_is_the_files(attach, tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(64 * KIB)
        file.write(b"x" * 64 * KIB)
        file.truncate(SIZE)
        os.fsync(file.fileno())
    backend = await attach(path)
    extents = await backend.block_status(0, SIZE, 10)
    assert [(e.length, bool(e.flags & Status.ZERO), e.host_offset) for e in extents] == [
        (64 * KIB, True, 0),
        (64 * KIB, False, 64 * KIB),
        (128 * KIB, True, 128 * KIB),
    ]
    assert all(extent.node is backend.node for extent in extents)


async def test_what_was_found_or_written_is_known_to_be_data_until_it_is_dropped(attach, tmp_path):
    path = tmp_path / "sparse"
    path.write_bytes(b"x" * 128 * KIB)
    os.truncate(path, 1 << 20)
    backend = await attach(path, discard="unmap", perm=ALL)
    assert not backend.is_known_data(0, 1)
    await backend.block_status(0, 1 << 20, 10)
    assert backend.is_known_data(0, 128 * KIB)
    assert not backend.is_known_data(128 * KIB, 1)
    await backend.pwrite(256 * KIB, memoryview(bytearray(b"y" * 64 * KIB)))
    assert backend.is_known_data(256 * KIB, 64 * KIB)
    await backend.pdiscard(64 * KIB, 4 * KIB)
    assert backend.is_known_data(0, 64 * KIB)
    assert not backend.is_known_data(64 * KIB, 64 * KIB)
    await backend.node.driver.truncate(4 * KIB)
    assert not backend.is_known_data(0, 64 * KIB)
    assert not backend.is_known_data(256 * KIB, 64 * KIB)


@pytest.mark.parametrize("hole", ["discard", "zeroes", "truncate"])
async def test_block_status_knows_of_holes_made_since_it_was_last_asked(attach, image, hole):
    os.sync()
    backend = await attach(image, discard="unmap", perm=ALL)
    first = await backend.block_status(0, 64 * KIB, 1)
    assert not first[0].flags & Status.ZERO
    match hole:
        case "discard":
            await backend.pdiscard(0, 64 * KIB)
        case "zeroes":
            await backend.pwrite_zeroes(0, 64 * KIB, ReqFlags.MAY_UNMAP)
        case _:
            await backend.node.driver.truncate(0)
    again = await backend.block_status(0, 64 * KIB, 1)
    assert again[0].flags & Status.ZERO


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
async def test_failed_write_is_the_requests_error_and_harms_no_other(attach, image, direct):
    backend = await attach(image, cache={"direct": direct}, perm=ALL)
    content = image.read_bytes()
    with file_size_limit(SIZE):
        for request in (
            backend.pwrite(SIZE, memoryview(b"x" * 4096)),
            backend.pwrite_zeroes(SIZE, 4096),
        ):
            with pytest.raises(OSError, match="File too large") as caught:
                await request
            assert caught.value.errno == errno.EFBIG
        await backend.pwrite(0, memoryview(content[:4096]))
    assert backend.length == SIZE
    assert image.read_bytes() == content
    await backend.pwrite(SIZE, memoryview(b"x" * 4096))
    assert backend.length == SIZE + 4096


@pytest.fixture
def small_tmpfs(tmp_path):
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


async def test_full_file_system_gives_enospc(small_tmpfs, attach):
    path = small_tmpfs / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
    backend = await attach(path)
    for request in (
        backend.pwrite(0, memoryview(b"x" * SIZE)),
        backend.pwrite_zeroes(0, SIZE),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            await request
        assert caught.value.errno == errno.ENOSPC


async def test_cancelled_request_is_over_only_when_its_thread_is(attach, image, monkeypatch):
    backend = await attach(image)
    may_end, seen, real = threading.Event(), [], os.pwritev

    def slow(*args: object):
        may_end.wait()
        seen.append("written")
        return real(*args)

    monkeypatch.setattr(os, "pwritev", slow)
    task = asyncio.ensure_future(backend.pwrite(0, memoryview(b"x" * 512)))
    await settle()
    task.cancel()
    await settle()
    assert backend.node.in_flight == 1
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["written"]
    assert backend.node.in_flight == 0


async def test_queries_are_answered_while_requests_hang(attach, image, monkeypatch):
    backend = await attach(image)
    may_end, real = threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (may_end.wait(), real(fd)))
    await backend.pwrite(0, memoryview(b"x"))
    driver = backend.node.driver
    flushes = [asyncio.ensure_future(driver.flush()) for _ in range(40)]
    await settle()
    assert await driver.allocated_size() == occupied(image)
    may_end.set()
    await asyncio.gather(*flushes)


async def test_size_of_a_node_that_is_just_being_closed_is_unknown(graph, image):
    node = await add_file(graph, image)
    await graph.delete("file")
    assert await node.driver.allocated_size() is None


async def test_truncate_cuts_and_extends_sparsely(graph, image):
    from qmpfleece.block import pipeline

    node = await add_file(graph, image)
    edge = hold(graph, node)
    content = image.read_bytes()
    await pipeline.truncate(edge, 1000)
    assert image.stat().st_size == 1000
    assert node.length == 1024
    await pipeline.truncate(edge, 1 << 30)
    assert node.length == image.stat().st_size == 1 << 30
    assert occupied(image) < 64 * KIB
    with image.open("rb") as file:
        assert file.read(2000) == content[:1000] + bytes(1000)


# -- block devices --------------------------------------------------------------------------


async def test_device_is_no_hole_though_its_file_is_empty(graph, tmp_path):
    path = tmp_path / "zero"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        path.open("rb").close()
    except PermissionError:
        pytest.skip("no devices may be made here")
    given = {"driver": "host_device", "node-name": "n", "filename": str(path)}
    node = await graph.add(validate_blockdev(given))
    extents = await node.driver.block_status(0, 1 << 20, 10)
    assert [(e.length, bool(e.flags & Status.DATA)) for e in extents] == [(1 << 20, True)]


@pytest.fixture(params=[512, 4096])
def device(request, tmp_path):
    path = tmp_path / "device"
    path.write_bytes(os.urandom(1 << 20))
    words = ["losetup", "-f", "--show", "-b", str(request.param), path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no loop devices here")
    yield request.param, path, done.stdout.strip()
    subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


@pytest.mark.parametrize("direct", [False, True])
async def test_block_device_is_read_and_written_like_a_file(graph, device, direct):
    sector, path, name = device
    model = bytearray(path.read_bytes())
    given = {"driver": "host_device", "node-name": "n", "filename": name, "discard": "unmap"}
    node = await graph.add(validate_blockdev({**given, "cache": {"direct": direct}}))
    assert node.request_alignment == (sector if direct else 1)
    assert node.length == 1 << 20
    backend = Backend(graph, "guest", R | W)
    backend.attach(node)
    assert await read(backend, 1000, 5000) == model[1000:6000]
    await backend.pwrite(1000, memoryview(b"x" * 5000), ReqFlags.FUA)
    model[1000:6000] = b"x" * 5000
    await backend.pwrite_zeroes(10_000, 20_000)
    model[10_000:30_000] = bytes(20_000)
    await backend.pwrite_zeroes(65536, 65536, ReqFlags.MAY_UNMAP)
    await backend.pdiscard(131072, 65536)
    model[65536:196608] = bytes(131072)
    await backend.flush()
    assert await read(backend, 0, 1 << 20) == model
    extents = await backend.block_status(0, 1 << 20, 10)
    assert [(e.length, bool(e.flags & Status.DATA)) for e in extents] == [(1 << 20, True)]
    await backend.detach()
    await graph.delete("n")
    assert path.read_bytes() == model


# -- with QEMU ------------------------------------------------------------------------------


@needs_qemu
async def test_image_that_qemu_writes_is_not_written_by_us(attach, graph, image):
    options = f"raw,node-name=r,size=512,file.driver=file,file.filename={image}"
    with qemu_holds("--blockdev", options):
        with pytest.raises(QmpError, match='Failed to get "resize" lock'):
            await attach(image, perm=R | Perm.RESIZE)
        assert graph.find("file").parents == []


async def test_locks_are_on_a_descriptor_of_their_own(graph, image):
    """Or io_uring, which lets go of files late, would keep them after a kill."""
    node = await add_file(graph, image)
    hold(graph, node, R | W)
    assert not locks_of(node.driver._fd)
    assert locks_of(node.driver._lock_fd)
