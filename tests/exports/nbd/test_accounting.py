"""The counters that a handle on a disk gets from those who serve NBD clients through it."""

import errno

import pytest

from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.exports.options import NbdExportOptions
from qmpfleece.nbdproto import const

SIZE = 4096


@pytest.fixture
async def counted(bench):
    """An export of the handle that a device has; the bench has its accounting."""
    await bench.start()
    backend = Backend(bench.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
    backend.attach(bench.graph.find("disk"))
    options = {"type": "nbd", "id": "e", "node_name": "disk", "name": "e", "writable": True}
    await bench.manager.add(NbdExportOptions(**options), backend)
    yield bench, backend.accounting
    await bench.manager.close()
    await backend.detach()


def moved(accounting):
    return {name: value for name, value in accounting.counters().items() if value}


async def test_requests_of_clients_count_for_the_handle_that_is_exported(counted):
    bench, accounting = counted
    client = await bench.enter()
    await client.ask(const.CMD_READ, 0, SIZE)
    await client.ask(const.CMD_READ, 0, 512)
    await client.ask(const.CMD_WRITE, 0, 512, data=bytes(512))
    await client.ask(const.CMD_WRITE_ZEROES, 0, SIZE)
    await client.ask(const.CMD_TRIM, 0, SIZE)
    await client.ask(const.CMD_FLUSH)
    await client.ask(const.CMD_CACHE, 0, 512)
    assert moved(accounting) == {
        "rd_operations": 2,
        "rd_bytes": SIZE + 512,
        "wr_operations": 2,
        "wr_bytes": SIZE + 512,
        "unmap_operations": 1,
        "unmap_bytes": SIZE,
        "flush_operations": 1,
    }


@pytest.mark.parametrize("structured", [False, True])
async def test_failed_requests_count_as_such_only(counted, structured):
    bench, accounting = counted
    client = await bench.enter(structured=structured)
    bench.disk.errors = dict.fromkeys(("read", "write", "discard", "flush"), errno.EIO)
    await client.ask(const.CMD_READ, 0, 512)
    await client.ask(const.CMD_WRITE, 0, 512, data=bytes(512))
    await client.ask(const.CMD_TRIM, 0, SIZE)
    await client.ask(const.CMD_FLUSH)
    failed = {f"failed_{kind}_operations": 1 for kind in ("rd", "wr", "unmap", "flush")}
    assert moved(accounting) == failed


async def test_read_that_can_not_be_looked_up_has_failed(counted):
    bench, accounting = counted
    client = await bench.enter(structured=True)
    bench.disk.errors = {"status": errno.EACCES}
    await client.ask(const.CMD_READ, 0, SIZE)
    assert moved(accounting) == {"failed_rd_operations": 1}


async def test_requests_past_the_end_are_invalid(counted):
    bench, accounting = counted
    client = await bench.enter()
    await client.ask(const.CMD_READ, 1 << 40, 512)
    await client.ask(const.CMD_WRITE, 1 << 40, 512, data=bytes(512))
    assert moved(accounting) == {"invalid_rd_operations": 1, "invalid_wr_operations": 1}
