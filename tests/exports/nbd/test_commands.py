import pytest

from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.driver import ReqFlags
from qmpfleece.nbdproto import const

ALL = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"]
MIB = 1 << 20


@pytest.fixture
def flags(served, monkeypatch):
    """The flags with which writes and zero writes reach the driver."""
    seen = []
    for verb in ("pwrite", "pwrite_zeroes"):
        original = getattr(served.disk, verb)

        def spy(offset, what, given, original=original):
            seen.append(given)
            return original(offset, what, given)

        monkeypatch.setattr(served.disk, verb, spy)
    monkeypatch.setattr(type(served.disk), "zero_flags", ReqFlags.FUA | ReqFlags.MAY_UNMAP)
    return seen


async def test_fua_reaches_the_driver(served, flags):
    client = await served.enter()
    await client.ask(const.CMD_WRITE, 0, 4, data=b"abcd", flags=const.CMD_FLAG_FUA)
    await client.ask(const.CMD_WRITE, 0, 4, data=b"abcd")
    assert [f & ReqFlags.FUA for f in flags] == [ReqFlags.FUA, 0]


async def test_writethrough_makes_every_write_stable(served, flags):
    await served.add("wt", writethrough=True)
    client = await served.enter("wt")
    await client.ask(const.CMD_WRITE, 0, 4, data=b"abcd")
    await client.ask(const.CMD_WRITE_ZEROES, 0, 512)
    assert [f & ReqFlags.FUA for f in flags] == [ReqFlags.FUA, ReqFlags.FUA]


async def test_zeroes_may_be_holes_unless_forbidden(served, flags):
    client = await served.enter()
    await client.ask(const.CMD_WRITE_ZEROES, 0, 4096)
    await client.ask(const.CMD_WRITE_ZEROES, 0, 4096, flags=const.CMD_FLAG_NO_HOLE)
    assert [f & ReqFlags.MAY_UNMAP for f in flags] == [ReqFlags.MAY_UNMAP, 0]
    assert served.disk.data[:4096] == bytes(4096)


async def test_flush_and_trim_with_fua_flush(served):
    client = await served.enter()
    await client.ask(const.CMD_WRITE, 0, 4, data=b"abcd")
    await client.ask(const.CMD_FLUSH)
    await client.ask(const.CMD_TRIM, 0, 4096, flags=const.CMD_FLAG_FUA)
    verbs = [verb for verb, *_ in served.disk.log]
    assert verbs == ["write", "flush", "discard", "flush"]


async def test_cache_is_answered_and_reads_nothing(served):
    client = await served.enter()
    assert not (await client.ask(const.CMD_CACHE, 1000, 3 * MIB)).error
    assert not served.disk.seen("read")


async def test_empty_requests_succeed_and_only_the_driver_may_refuse_them(served):
    client = await served.enter()
    for kind in (
        const.CMD_READ,
        const.CMD_WRITE,
        const.CMD_TRIM,
        const.CMD_CACHE,
        const.CMD_WRITE_ZEROES,
    ):
        assert not (await client.ask(kind, 4 * MIB, 0)).error
    assert served.disk.log == [("read", 4 * MIB, 0), ("write", 4 * MIB, 0)]


async def test_block_status_of_all_contexts(served):
    bitmap = DirtyBitmap(4 * MIB, 65536, "b")
    served.disk.node.bitmaps.append(bitmap)
    bitmap.mark(MIB, 1)
    await served.add("x", bitmaps=["b"], allocation_depth=True)
    client = await served.enter("x", contexts=ALL)
    reply = await client.ask(const.CMD_BLOCK_STATUS, 512, 4 * MIB - 512)
    assert reply.extents == {
        0: [(2 * MIB - 512, 0), (2 * MIB, 3)],
        1: [(4 * MIB - 512, 1)],
        2: [(MIB - 512, 0), (65536, 1), (3 * MIB - 65536, 0)],
    }
    reply = await client.ask(
        const.CMD_BLOCK_STATUS, 512, 4 * MIB - 512, flags=const.CMD_FLAG_REQ_ONE
    )
    assert [found[0] for found in reply.extents.values()] == [
        (2 * MIB - 512, 0),
        (4 * MIB - 512, 1),
        (MIB - 512, 0),
    ]
    assert {len(found) for found in reply.extents.values()} == {1}


async def test_block_status_reports_chosen_contexts_only(served):
    client = await served.enter(contexts=["base:allocation"])
    reply = await client.ask(const.CMD_BLOCK_STATUS, 0, 4 * MIB)
    assert list(reply.extents) == [0]


async def test_long_lists_of_extents_are_cut(served):
    for block in range(0, 8192, 2):
        served.disk.allocated.reset(block * 512, 512)
    bitmap = DirtyBitmap(4 * MIB, 512, "b")
    served.disk.node.bitmaps.append(bitmap)
    for block in range(0, 8192, 2):
        bitmap.mark(block * 512, 512)
    await served.add("x", bitmaps=["b"])
    client = await served.enter("x", contexts=ALL)
    reply = await client.ask(const.CMD_BLOCK_STATUS, 0, 4 * MIB)
    assert len(reply.extents[2]) == 8192
    assert len(reply.extents[0]) == 4097
