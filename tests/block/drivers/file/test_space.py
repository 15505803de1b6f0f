"""Holes, and requests that fail or hang."""

import asyncio
import errno
import os
import subprocess
import threading

import pytest

from qmpfleece.block.driver import ReqFlags, Status
from tests.block.drivers.file.conftest import (
    ALL,
    KIB,
    SIZE,
    file_size_limit,
    read,
)
from tests.tools.hostfile import add_file, occupied
from tests.tools.memory import hold, settle

# -- zeroes and discard --------------------------------------------------------------------


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


# -- errors --------------------------------------------------------------------------------


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
