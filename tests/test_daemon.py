import asyncio
import os
import threading

import pytest
import uvloop

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.base.units import MIB
from qmpfleece.daemon import Daemon
from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdclient.uri import NbdUri
from qmpfleece.qmp.sockets import UnixAddress
from tests.tools.until import settle, until


async def serve_disk(daemon, folder):
    """Export a disk, with monitors and a filter, as much as there is to clean up."""
    (folder / "disk").write_bytes(bytes(MIB))
    (folder / "temp").write_bytes(bytes(MIB))
    for name in ("disk", "temp"):
        node = {"driver": "file", "node-name": name, "filename": str(folder / name)}
        await daemon.execute("blockdev-add", node)
    cbw = {"driver": "copy-before-write", "node-name": "cbw", "file": "disk", "target": "temp"}
    await daemon.execute("blockdev-add", cbw)
    address = {"type": "unix", "data": {"path": str(folder / "nbd")}}
    await daemon.execute("nbd-server-start", {"addr": address})
    export = {"type": "nbd", "id": "e", "node-name": "cbw", "name": "disk", "writable": True}
    await daemon.execute("block-export-add", export)
    await daemon.qmp.listen(UnixAddress(str(folder / "qmp")))
    return NbdUri("disk", path=str(folder / "nbd"))


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_is_left_of_a_daemon(tmp_path, factory):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(start_use_and_end(tmp_path))
        descriptors = os.listdir("/proc/self/fd")  # the loop itself has opened some
        runner.run(start_use_and_end(tmp_path))
        assert os.listdir("/proc/self/fd") == descriptors


async def test_a_descriptor_whose_closing_fails_does_not_keep_the_rest_open():
    """As that of a file on NFS may: here, somebody has closed it already."""
    threads = threading.active_count()
    async with Daemon() as daemon:
        kept, gone = os.pipe()
        daemon.system.named_fds |= {"gone": gone, "kept": kept}
        os.close(gone)
        await daemon.system.graph.workers.queue(1).submit(int)  # there is a thread then
    assert threading.active_count() == threads
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)


async def start_use_and_end(tmp_path):
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    async with Daemon() as daemon:
        uri = await serve_disk(daemon, tmp_path)
        client = await NbdClient.connect(uri)
        await client.pwrite(0, memoryview(b"abc"))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "qmp"))
        assert b"QMP" in await reader.readline()
    with pytest.raises(ConnectionResetError):
        await client.pread(0, memoryview(bytearray(1)))
    await client.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    del reader, writer, client
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() == threads
    assert sorted(os.listdir(tmp_path)) == ["disk", "temp"]
    assert (tmp_path / "disk").read_bytes()[:3] == b"abc"


async def test_daemons_live_side_by_side(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with Daemon() as first, Daemon() as second:
        for daemon, name in ((first, "a"), (second, "b")):
            uri = await serve_disk(daemon, tmp_path / name)
            client = await NbdClient.connect(uri)
            await client.pwrite(0, memoryview(name.encode()))
            await client.close()
    assert (tmp_path / "a" / "disk").read_bytes()[:1] == b"a"
    assert (tmp_path / "b" / "disk").read_bytes()[:1] == b"b"


async def test_clients_see_the_exports_end_before_their_own_session(tmp_path):
    async with Daemon() as daemon:
        await serve_disk(daemon, tmp_path)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "qmp"))
        writer.write(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
        await reader.readline()
        assert await reader.readline() == b'{"return": {}}\r\n'
        assert await reader.readline() == b'{"return": {}}\r\n'
        await daemon.wait()
    assert b"BLOCK_EXPORT_DELETED" in await reader.readline()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_refused_command_is_a_qmp_error():
    async with Daemon() as daemon:
        with pytest.raises(QmpError, match=r"^Export 'x' is not found$"):
            await daemon.execute("block-export-del", {"id": "x"})
        with pytest.raises(QmpError) as caught:
            await daemon.execute("no-such-command")
        assert caught.value.error_class is ErrorClass.COMMAND_NOT_FOUND


async def test_work_is_cancelled_when_the_daemon_is_asked_to_end():
    async with Daemon() as daemon:
        reached = asyncio.Event()

        async def hang():
            reached.set()
            await asyncio.get_running_loop().create_future()

        waiting = asyncio.create_task(daemon.unless_ended(hang()))
        await reached.wait()
        daemon.end()
        await waiting
        assert daemon.ended


async def test_work_that_fails_says_so():
    async def fail():
        raise QmpError("no")

    async with Daemon() as daemon:
        with pytest.raises(QmpError, match="no"):
            await daemon.unless_ended(fail())


async def test_the_end_does_not_wait_for_limits(tmp_path):
    async with Daemon() as daemon:
        limits = {"bps-total": 1, "bps-total-max": 4096}
        group = {"qom-type": "throttle-group", "id": "g", "limits": limits}
        await daemon.execute("object-add", group)
        for node in (
            {"driver": "null-co", "node-name": "n", "size": MIB},
            {"driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g"},
        ):
            await daemon.execute("blockdev-add", node)
        address = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
        await daemon.execute("nbd-server-start", {"addr": address})
        export = {"type": "nbd", "id": "e", "node-name": "t", "writable": True}
        await daemon.execute("block-export-add", export)
        client = await NbdClient.connect(NbdUri("t", path=str(tmp_path / "nbd")))
        data = memoryview(bytes(4096))
        writes = [asyncio.ensure_future(client.pwrite(0, data)) for _ in range(4)]
        await asyncio.gather(*writes[:2])
        await until(lambda: daemon.system.graph.find("t").in_flight == 2)
    for write in writes[2:]:
        assert isinstance(await settled(write), ConnectionResetError | None)
    await client.close()


async def test_the_end_does_not_wait_for_a_command_that_waits_for_limits():
    async with Daemon() as daemon:
        limits = {"bps-total": 1, "bps-total-max": 4096}
        group = {"qom-type": "throttle-group", "id": "g", "limits": limits}
        await daemon.execute("object-add", group)
        for name in ("free", "slow", "t0", "t1"):
            node = {"driver": "null-co", "node-name": name, "size": 64 * MIB}
            await daemon.execute("blockdev-add", node)
        node = {"driver": "throttle", "node-name": "t", "file": "slow", "throttle-group": "g"}
        await daemon.execute("blockdev-add", node)
        jobs = (
            {"job-id": "j0", "device": "free", "target": "t0", "sync": "none"},
            {"job-id": "j1", "device": "t", "target": "t1", "sync": "full"},
        )
        actions = [{"type": "blockdev-backup", "data": job} for job in jobs]
        grouped = {"actions": actions, "properties": {"completion-mode": "grouped"}}
        await daemon.execute("transaction", grouped)
        await until(lambda: daemon.system.graph.find("t").in_flight)
        await settle()
        await daemon.execute("job-cancel", {"id": "j0"})
        await settle()  # it waits for the other one
        waiting = asyncio.ensure_future(daemon.execute("job-dismiss", {"id": "j0"}))
        await settle()
        assert not waiting.done()
    assert str(await settled(waiting)) == "Job not found"


async def settled(task):
    """Wait for the end of a task and return how it failed, None if it did not."""
    await asyncio.wait({task})
    return task.exception()


async def test_a_signal_that_can_not_be_told_of_ends_it_all_the_same():
    def tell(_):
        raise BlockingIOError

    async with Daemon() as daemon:
        with pytest.raises(BlockingIOError):
            daemon._take(tell, None)
        assert daemon.ended
