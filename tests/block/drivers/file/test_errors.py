"""Requests that fail, are cancelled or hang; sizes."""

import asyncio
import errno
import os
import subprocess
import threading

import pytest

from tests.block.drivers.file.conftest import ALL, KIB, SIZE, file_size_limit
from tests.tools.hostfile import add_file, buffer, occupied
from tests.tools.memory import hold
from tests.tools.until import settle


@pytest.mark.parametrize("direct", [False, True])
async def test_failed_write_is_the_requests_error_and_harms_no_other(attach, image, direct):
    backend = await attach(image, cache={"direct": direct}, perm=ALL)
    content = image.read_bytes()
    with file_size_limit(SIZE):
        for request in (
            backend.pwrite(SIZE, buffer(b"x" * 4096)),
            backend.pwrite_zeroes(SIZE, 4096),
        ):
            with pytest.raises(OSError, match="File too large") as caught:
                await request
            assert caught.value.errno == errno.EFBIG
        await backend.pwrite(0, buffer(content[:4096]))
    assert backend.length == SIZE
    assert image.read_bytes() == content
    await backend.pwrite(SIZE, buffer(b"x" * 4096))
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
        backend.pwrite(0, buffer(b"x" * SIZE)),
        backend.pwrite_zeroes(0, SIZE),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            await request
        assert caught.value.errno == errno.ENOSPC


async def test_file_that_cannot_be_closed_well_is_closed_with_all_that_belongs_to_it(
    attach, image, graph
):
    backend = await attach(image)
    name, driver = backend.node.name, backend.node.driver
    lock_fd = driver._lock_fd
    os.close(driver._fd)  # to close it again is an error
    await backend.detach()
    await graph.delete(name)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock_fd)


async def test_cancelled_request_is_over_only_when_its_thread_is(attach, image, monkeypatch):
    backend = await attach(image, aio="threads")
    may_end, seen, real = threading.Event(), [], os.pwritev

    def slow(*args: object):
        may_end.wait()
        seen.append("written")
        return real(*args)

    monkeypatch.setattr(os, "pwritev", slow)
    task = asyncio.ensure_future(backend.pwrite(0, buffer(b"x" * 512)))
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
    await backend.pwrite(0, buffer(b"x"))
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
