import asyncio
import errno

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline, status
from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.drivers.blkdebug import first_blkdebug
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.memory import Load, User, add_memory, hold
from tests.tools.until import settle

SIZE = 65536
DATA = bytes(range(256)) * 256


@pytest.fixture
def disk(graph):
    return add_memory(graph, "disk", DATA, discard="unmap")


def add(graph, name="b", **options: object):
    given = {"driver": "blkdebug", "node-name": name, "image": "disk", "discard": "unmap"}
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    return graph.add(validate_blockdev(given | wire))


async def raw_above(graph, **options: object):
    await add(graph, **options)
    node = await graph.add(
        validate_blockdev({"driver": "raw", "node-name": "r", "file": "b", "discard": "unmap"})
    )
    return hold(graph, node)


def rule(event="none", **more: object):
    return {"event": event, **more}


async def code_of(request):
    try:
        await request
    except OSError as error:
        return error.errno
    return 0


def read(edge, offset=0, length=512):
    return code_of(pipeline.pread(edge, offset, memoryview(bytearray(length))))


def write(edge, offset=0, data=b"x" * 512, flags=0):
    return code_of(pipeline.pwrite(edge, offset, memoryview(data), flags))


async def test_requests_pass_unchanged_without_rules(graph, disk):
    edge = hold(graph, await add(graph))
    assert await write(edge, 10, b"new", ReqFlags.FUA) == 0
    await pipeline.pwrite_zeroes(edge, 100, 50)
    await pipeline.pdiscard(edge, 200, 30)
    await pipeline.flush(edge)
    verbs = [(verb, offset, length) for verb, offset, length, _ in disk.seen()]
    assert verbs == [
        ("write", 10, 3), ("flush", 0, 0), ("zero", 100, 50), ("discard", 200, 30),
        ("flush", 0, 0),
    ]  # fmt: skip
    buf = bytearray(SIZE)
    await pipeline.pread(edge, 0, memoryview(buf))
    assert buf == disk.data
    extents = await status.block_status(edge.node, 0, SIZE, 10)
    assert sum(extent.length for extent in extents) == SIZE


@pytest.mark.parametrize("verb", ["read", "write", "write-zeroes", "discard", "flush"])
async def test_only_requests_of_its_kind_fail(graph, disk, verb):
    edge = hold(graph, await add(graph, inject_error=[rule(iotype=verb, errno=errno.ENOSPC)]))
    codes = {
        "read": await read(edge),
        "write": await write(edge),
        "write-zeroes": await code_of(pipeline.pwrite_zeroes(edge, 0, 512)),
        "discard": await code_of(pipeline.pdiscard(edge, 0, 512)),
        "flush": await code_of(pipeline.flush(edge)),
    }
    assert codes == dict.fromkeys(codes, 0) | {verb: errno.ENOSPC}


async def test_block_status_fails_only_when_it_is_named(graph, disk):
    node = await add(graph, inject_error=[rule(once=False)])
    assert await status.block_status(node, 0, 512, 1)
    node = await add(graph, "c", inject_error=[rule(iotype="block-status")])
    assert await code_of(status.block_status(node, 0, 512, 1)) == errno.EIO


async def test_a_rule_used_once_is_gone_and_the_next_one_counts(graph, disk):
    rules = [rule(errno=code, once=True) for code in (5, 28, 5)]
    edge = hold(graph, await add(graph, inject_error=rules))
    assert [await read(edge) for _ in range(4)] == [5, 28, 5, 0]


async def test_only_requests_with_the_first_byte_of_the_sector_fail(graph, disk):
    edge = hold(graph, await add(graph, max_transfer=512, inject_error=[rule(sector=3)]))
    assert [await read(edge, *at) for at in ((0, 1536), (1535, 1), (1536, 1), (2047, 1))] == [
        0, 0, errno.EIO, 0,
    ]  # fmt: skip
    assert await read(edge, 2048, 4096) == 0
    disk.seen()
    assert await write(edge, 0, b"x" * 4096) == errno.EIO
    assert [(offset, length) for _, offset, length, _ in disk.seen("write")] == [
        (0, 512), (512, 512), (1024, 512),
    ]  # fmt: skip


async def test_events_of_raw_and_of_flushes_drive_the_states(graph, disk):
    changes = [rule("flush_to_disk", state=1, new_state=2), rule("read_aio", state=2, new_state=3)]
    edge = await raw_above(
        graph,
        set_state=changes,
        inject_error=[rule("read_aio", state=3, once=True), rule("write_aio", errno=28, state=3)],
    )
    assert await read(edge) == 0
    await pipeline.flush(edge)  # nothing has been written: nothing goes to disk
    assert [await read(edge), await read(edge), await write(edge)] == [0, 0, 0]
    await pipeline.flush(edge)
    assert [await read(edge), await read(edge), await read(edge)] == [0, errno.EIO, 0]
    assert [await write(edge), await read(edge)] == [28, 28]


async def test_nobody_is_told_where_nobody_listens(graph, disk):
    edge = await raw_above(graph)
    assert edge.node.debug is not None
    above = edge.node.children["file"]
    graph.replace_node([above], disk.node)
    assert edge.node.debug is None
    graph.replace_node([above], graph.find("b"))
    assert edge.node.debug is not None


async def test_zeroes_below_the_unit_are_written(graph, disk):
    edge = hold(graph, await add(graph, align=512, opt_write_zero=1024, max_write_zero=2048))
    await pipeline.pwrite_zeroes(edge, 512, 5120)
    assert disk.seen("write", "zero") == [
        ("write", 512, 512, 0), ("zero", 1024, 2048, 0), ("zero", 3072, 2048, 0),
        ("write", 5120, 512, 0),
    ]  # fmt: skip
    assert disk.data == DATA[:512] + bytes(5120) + DATA[5632:]
    request = pipeline.pwrite_zeroes(edge, 0, 512, ReqFlags.NO_FALLBACK)
    assert await code_of(request) == errno.ENOTSUP


async def test_discards_are_split_at_the_borders_of_units(graph, disk):
    edge = hold(graph, await add(graph, align=512, opt_discard=1024, max_discard=2048))
    await pipeline.pdiscard(edge, 512, 5120)
    assert [(offset, length) for _, offset, length, _ in disk.seen("discard")] == [
        (512, 512), (1024, 2048), (3072, 2048), (5120, 512),
    ]  # fmt: skip


async def test_a_break_suspends_the_next_request_once(graph, disk):
    edge = await raw_above(graph)
    rules = first_blkdebug(edge.node).rules
    rules.add_break("read_aio", "one")
    load = Load()
    first = await load.start(read(edge))
    assert rules.is_suspended("one")
    assert not first.done()
    assert await read(edge) == 0
    rules.resume("one")
    assert await first == 0
    assert not rules.is_suspended("one")


async def test_removing_a_break_resumes_what_it_suspended(graph, disk):
    edge = await raw_above(graph)
    rules = first_blkdebug(edge.node).rules
    rules.add_break("write_aio", "t")
    load = Load()
    task = await load.start(write(edge))
    rules.add_break("write_aio", "t")
    rules.remove_break("t")
    assert await task == 0
    assert await write(edge) == 0
    assert disk.data[:512] == b"x" * 512


async def test_who_waits_for_a_suspended_request_is_told_of_those_of_that_tag(graph, disk):
    rules = (await add(graph)).driver.rules
    rules.add_break("read_aio", "other")
    rules.add_break("write_aio", "t")
    waiting = [asyncio.ensure_future(rules.wait_suspended("t")) for _ in range(2)]
    requests = [asyncio.ensure_future(rules.happened("read_aio"))]
    await settle()
    assert not any(task.done() for task in waiting)
    requests.append(asyncio.ensure_future(rules.happened("write_aio")))
    await asyncio.gather(*waiting)
    await rules.wait_suspended("other")
    assert not any(task.done() for task in requests)
    for tag in ("t", "other"):
        rules.resume(tag)
    await asyncio.gather(*requests)


async def test_who_waits_goes_on_waiting_if_the_request_is_gone_again(graph, disk):
    rules = (await add(graph)).driver.rules
    rules.add_break("read_aio", "t")
    waiting = asyncio.ensure_future(rules.wait_suspended("t"))
    await settle()
    request = asyncio.ensure_future(rules.happened("read_aio"))
    await asyncio.sleep(0)
    rules.resume("t")  # before who waits has run
    await request
    await settle()
    assert not waiting.done()
    waiting.cancel()
    await settle()
    rules.add_break("read_aio", "t")
    request = asyncio.ensure_future(rules.happened("read_aio"))
    await rules.wait_suspended("t")
    rules.resume("t")
    await request


async def test_a_suspended_request_can_be_cancelled(graph, disk):
    edge = await raw_above(graph)
    rules = first_blkdebug(edge.node).rules
    rules.add_break("read_aio", "t")
    task = await Load().start(read(edge))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not rules.is_suspended("t")
    assert edge.node.in_flight == 0


async def test_unknown_events_and_tags_are_refused(graph, disk):
    rules = first_blkdebug(await add(graph)).rules
    for refused in (
        lambda: rules.add_break("zzz", "t"),
        lambda: rules.remove_break("t"),
        lambda: rules.resume("t"),
    ):
        with pytest.raises(OSError, match="No such file"):
            refused()
    assert first_blkdebug(disk.node) is None


async def test_images_of_odd_length_are_read_to_the_end_and_not_written(graph):
    disk = add_memory(graph, "disk", DATA[:5632])
    node = await add(graph, align=4096)
    edge = hold(graph, node, Perm.CONSISTENT_READ)
    buf = bytearray(1000)
    await pipeline.pread(edge, 4632, memoryview(buf))
    assert buf == disk.data[4632:5632]
    with pytest.raises(QmpError, match="Image size is not a multiple of request alignment"):
        hold(graph, node, Perm.WRITE)


async def test_permissions_are_taken_and_unshared(graph, disk):
    await add(graph, take_child_perms=["write"], unshare_child_perms=["resize"])
    with pytest.raises(QmpError, match="'resize' are both required by other"):
        hold(graph, disk.node, Perm.RESIZE, user=User("other"))
    with pytest.raises(QmpError, match="'write' are both required by node 'b'"):
        hold(graph, disk.node, Perm.NONE, Perm.CONSISTENT_READ)


async def test_resizing_resizes_the_image(graph, disk):
    edge = hold(graph, await add(graph))
    await pipeline.truncate(edge, SIZE * 2)
    assert disk.node.length == edge.node.length == SIZE * 2


async def test_config_is_read_and_its_rules_come_first(graph, disk, tmp_path):
    (tmp_path / "c").write_text('[inject-error]\nevent = "none"\nerrno = "28"\nonce = "on"\n')
    rules = [rule(once=True)]
    edge = hold(graph, await add(graph, config=str(tmp_path / "c"), inject_error=rules))
    assert [await read(edge), await read(edge), await read(edge)] == [28, errno.EIO, 0]
    with pytest.raises(QmpError, match="Could not read blkdebug config file: No such file"):
        await add(graph, "c", config=str(tmp_path / "nowhere"))


async def test_of_several_changes_of_state_the_first_counts(graph, disk):
    changes = [rule("read_aio", state=1, new_state=2), rule("read_aio", new_state=3)]
    of_writes = {"event": "write_aio", "iotype": "write"}
    errors = [of_writes | {"state": 2, "errno": 28}, of_writes | {"state": 3, "errno": 5}]
    edge = await raw_above(graph, set_state=changes, inject_error=errors)
    assert [await read(edge), await write(edge)] == [0, 28]
    assert [await read(edge), await write(edge)] == [0, 5]
