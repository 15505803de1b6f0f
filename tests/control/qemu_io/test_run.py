"""Lines of qemu-io on a node: break points, permissions, and what is left behind."""

import asyncio
import contextlib

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.backend import Backend
from qmpfleece.control.qemu_io.run import run_line
from tests.tools.desk import Desk
from tests.tools.until import settle


@pytest.fixture
async def desk(tmp_path):
    desk = Desk()
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    await desk.say("blockdev-add", driver="file", node_name="file", filename=f"{tmp_path}/disk")
    await desk.say("blockdev-add", driver="blkdebug", node_name="debug", image="file")
    await desk.say("blockdev-add", driver="raw", node_name="disk", file="debug")
    yield desk
    await desk.close()


@pytest.fixture
def io(desk):
    async def io(line, node="disk"):
        return (await run_line(desk.graph, desk.graph.find(node), line)).out

    return io


async def test_a_break_point_suspends_the_next_request_until_it_is_resumed(desk, io):
    assert await io("break read_aio A") == ""
    guest = desk.guest("disk")
    request = desk.later(guest.pread(0, memoryview(bytearray(512))))
    assert await io("wait_break A") == ""
    assert not request.done()
    assert await io("resume A") == ""
    await request


async def test_waiting_for_a_break_ends_when_a_request_comes(desk, io):
    await io("break write_aio A")
    waiting = desk.later(io("wait_break A"))
    await settle()
    assert not waiting.done()
    request = desk.later(desk.guest("disk").pwrite(0, memoryview(bytes(512))))
    assert await waiting == ""
    assert not request.done()
    assert await io("resume A") == ""
    await request


async def test_removing_a_break_point_resumes_what_it_has_suspended(desk, io):
    await io("break read_aio A")
    request = desk.later(desk.guest("disk").pread(0, memoryview(bytearray(512))))
    await io("wait_break A")
    assert await io("remove_break A") == ""
    await request


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("break nosuch A", "Could not set breakpoint: No such file or directory\n"),
        ("remove_break A", "Could not remove breakpoint A: No such file or directory\n"),
        ("resume A", "Could not resume request: No such file or directory\n"),
    ],
)
async def test_a_break_point_that_is_not_there_is_named(io, line, text):
    assert await io(line) == text


async def test_no_break_point_is_set_where_no_blkdebug_is(io):
    said = await io("break read_aio A", "file")
    assert said == "Could not set breakpoint: Operation not supported\n"


async def test_waiting_without_blkdebug_does_not_wait_for_ever(io):
    said = await io("wait_break A", "file")
    assert said == "Could not wait for breakpoint: Operation not supported\n"


async def test_a_node_is_held_only_while_its_command_runs(desk, io):
    await io("write -P 1 0 512")
    await io("read 2M 1")
    await io("read nonsense 1")
    assert desk.graph.find("disk").parents == []


async def test_a_cancelled_command_lets_the_node_go(desk, io):
    await io("break read_aio A")
    reading = asyncio.ensure_future(io("aio_read 0 512"))
    await io("wait_break A")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert desk.graph.find("disk").parents == []


async def test_reopen_is_refused_where_there_is_no_medium(desk):
    """QEMU crashes."""
    drive = Backend(desk.graph)
    for line in ("reopen", "reopen -r", "reopen -c none"):
        assert (await run_line(desk.graph, drive, line)).out == "no medium\n"


async def test_every_part_of_what_is_read_is_compared_with_the_pattern(desk, io):
    await desk.say("blockdev-add", driver="raw", node_name="long", file="debug")
    await io("truncate 3M", "long")
    assert (await io("read -P 0 0 3M", "long")).startswith("read 3145728/3145728")
    await io("write -P 1 2M 1", "long")
    assert (await io("read -P 0 0 3M", "long")).startswith(
        "Pattern verification failed at offset 0"
    )
    assert (await io("read -P 0 -l 2M 0 3M", "long")).startswith("read")
    assert (await io("read -P 0 -s 2097153 0 3M", "long")).startswith("read")
    await desk.say("blockdev-del", node_name="long")


@pytest.mark.parametrize("lines", [["reopen -r -o colour=red"], ["reopen -r", "reopen -w"]])
async def test_guest_whose_disk_was_to_become_read_only_can_not_write(desk, lines):
    guest = desk.guest("file")
    for line in lines:
        with contextlib.suppress(QmpError):
            await run_line(desk.graph, guest, line)
    assert not guest.node.read_only
    for request in (guest.pwrite(0, memoryview(bytes(512))), guest.pwrite_zeroes(0, 512)):
        with pytest.raises(OSError, match="Operation not permitted"):
            await request
    await run_line(desk.graph, guest, "write 0 512")
    await guest.pwrite(0, memoryview(bytes(512)))
