import asyncio

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.exports.options import NbdServerAddOptions
from qmpfleece.nbdproto import const
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap
from tests.tools.gate import add_disk
from tests.tools.until import settle, until


def deleted(*ids: str):
    return [{"id": name} for name in ids]


async def refused(awaitable):
    with pytest.raises(QmpError) as caught:
        await awaitable
    return caught.value.desc


async def test_query_is_newest_first_and_the_list_oldest_first(served):
    for name in ("b", "a"):
        await served.add(name)
    assert [info.id for info in served.manager.query()] == ["a", "b", "e"]
    assert served.manager.query()[0].to_wire() == {
        "id": "a",
        "type": "nbd",
        "node-name": "disk",
        "shutting-down": False,
    }
    client = await served.connect()
    await client.shake_hands("", listing=True)
    assert [name for name, _ in client.machine.exports] == ["e", "b", "a"]


async def test_errors_of_adding(served):
    add_disk(served.graph, "ro", bytes(4096), read_only=True)
    served.disk.node.bitmaps.append(DirtyBitmap(4 << 20, 65536, "b"))
    errors = [
        ({"id": ""}, "Invalid block export id"),
        ({"id": "1e"}, "Invalid block export id"),
        ({"id": "a b"}, "Invalid block export id"),
        ({"id": "e"}, "Block export id 'e' is already in use"),
        ({"node_name": "none"}, "Cannot find device='' nor node-name='none'"),
        ({"iothread": "t"}, 'iothread "t" not found'),
        ({"node_name": "ro"}, "Cannot export read-only node as writable"),
        ({"name": "e"}, "NBD server already has export named 'e'"),
        ({"name": "n" * 4097}, f"export name '{'n' * 4097}' too long"),
        ({"description": "n" * 4097}, f"description '{'n' * 4097}' too long"),
        ({"bitmaps": ["x"]}, "Bitmap 'x' is not found"),
        ({"bitmaps": [BlockDirtyBitmap(node="z", name="b")]}, "Node 'z' not found"),
        (
            {"bitmaps": [BlockDirtyBitmap(node="disk", name="x")]},
            "Dirty bitmap 'x' not found",
        ),
        (
            {"bitmaps": ["b"], "writable": False},
            "Enabled bitmap 'b' incompatible with readonly export",
        ),
    ]
    for options, text in errors:
        assert await refused(served.add(**{"id": "new"} | options)) == text
    assert [info.id for info in served.manager.query()] == ["e"]
    assert not served.disk.node.bitmaps[0].busy
    await served.add("new")


async def test_server_must_run(bench):
    assert await refused(bench.add()) == "NBD server not running"
    assert await refused(bench.manager.stop_nbd()) == "NBD server not running"
    assert not bench.manager.query()
    await bench.start()
    assert await refused(bench.start()) == "NBD server already running"


async def test_nbd_server_add_names_the_export_after_the_node_and_downgrades(served):
    node = add_disk(served.graph, "ro", bytes(4096), read_only=True).node
    await served.manager.add_nbd(NbdServerAddOptions(device="ro", writable=True), node)
    client = await served.enter("ro")
    assert client.machine.result.flags & const.FLAG_READ_ONLY


async def test_exported_bitmaps_are_busy_until_the_export_goes(served):
    bitmap = DirtyBitmap(4 << 20, 65536, "b")
    served.disk.node.bitmaps.append(bitmap)
    await served.add("x", bitmaps=["b"])
    assert bitmap.busy
    text = "Bitmap 'b' is currently in use by another operation and cannot be used"
    assert await refused(served.add("y", bitmaps=["b"])) == text
    await served.delete("x")
    assert not bitmap.busy


async def test_safe_removal_is_refused_while_a_client_is_in(served):
    client = await served.enter()
    with pytest.raises(QmpError, match=r"^export 'e' still in use$"):
        served.manager.begin_delete("e")
    assert await client.read(0, 16) == served.data[:16]
    client.close()
    await until(lambda: not served.manager.exports()[0].users)
    await served.delete("e")
    assert served.events == deleted("e")


async def test_hard_removal_disconnects_and_reports_after_the_reply(served):
    client = await served.enter()
    export = served.manager.begin_delete("e", "hard")
    await settle()
    assert not served.events
    assert served.manager.query()[0].shutting_down
    await served.manager.finish_delete(export)
    assert served.events == deleted("e")
    assert await client.hung_up()
    assert served.disk.node.parents == []
    with pytest.raises(QmpError, match=r"^Export 'e' is not found$"):
        served.manager.begin_delete("e")


async def test_hard_removal_does_not_wait_for_a_hung_disk(served):
    client = await served.enter()
    served.disk.stop("write")
    client.request(const.CMD_WRITE, 0, 4, data=b"abcd")
    await until(lambda: served.disk.waiting)
    await served.delete("e", "hard")
    assert not served.events
    assert served.manager.query()[0].shutting_down
    with pytest.raises(QmpError, match=r"^Export 'e' is already shutting down$"):
        served.manager.begin_delete("e")
    newcomer = await served.connect()
    newcomer.send(b"\0\0\0\3")
    newcomer.option(const.OPT_EXPORT_NAME, b"e")
    await newcomer.hung_up()
    served.disk.release()
    await until(lambda: served.events)
    assert served.events == deleted("e")
    assert served.disk.data[:4] == b"abcd"


async def test_another_export_does_not_notice_a_removal(served):
    await served.add("f")
    client = await served.enter("f")
    await served.delete("e", "hard")
    assert await client.read(0, 512) == served.data[:512]


async def test_stop_deletes_all_exports_and_waits_for_requests(served):
    await served.add("f")
    client = await served.enter("f")
    served.disk.stop("write")
    client.request(const.CMD_WRITE, 0, 4, data=b"abcd")
    await until(lambda: served.disk.waiting)
    stopping = asyncio.get_running_loop().create_task(served.manager.stop_nbd())
    await settle()
    assert not stopping.done()
    served.disk.release()
    await stopping
    assert served.events == deleted("f", "e")
    assert not served.manager.query()
    assert served.disk.node.parents == []
    await served.start()


@pytest.mark.parametrize(
    ("client_of", "order"), [(None, "bac"), ("a", "cab"), ("b", "acb"), ("c", "cba")]
)
async def test_order_of_events_of_a_mass_deletion_is_qemus(bench, client_of, order):
    await bench.start()
    for name in "bac":
        await bench.add(name)
    if client_of:
        await bench.enter(client_of)
    await bench.manager.stop_nbd()
    assert bench.events == deleted(*order)


async def test_drained_node_holds_requests_back(served):
    client = await served.enter()
    served.disk.node.drained_begin()
    pending = client.request(const.CMD_READ, 0, 512, flags=const.CMD_FLAG_DF)
    await settle()
    assert not served.disk.seen("read")
    served.disk.node.drained_end()
    await client.finish(pending)


async def test_flags_tell_of_multiple_connections_unless_one_is_the_limit(bench):
    await bench.start(max_connections=1)
    await bench.add()
    client = await bench.enter()
    assert not client.machine.result.flags & const.FLAG_CAN_MULTI_CONN
    assert client.machine.result.flags == 0x0C6D | const.FLAG_SEND_DF
