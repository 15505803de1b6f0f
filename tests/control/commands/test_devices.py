"""Devices: exports of them, requests through them, what they hold and give back."""

import asyncio
import contextlib
from typing import Any

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, MIB
from qmpfleece.block.backend import Backend
from qmpfleece.control.devices.models import MODELS
from qmpfleece.daemon import Daemon
from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdclient.uri import parse
from tests.tools.until import until

CLUSTER = 64 * KIB
COUNT = 16


class Machine:
    """A daemon with a controller, disks in files, and what was heard of it."""

    def __init__(self, daemon, folder) -> None:
        self.daemon = daemon
        self.folder = folder
        self.heard = []
        self.clients = []
        daemon.system.bus.subscribe(lambda event, _us: self.heard.append(event.event_name))

    async def do(self, command, /, **arguments: Any):
        members = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.daemon.execute(command, members)

    async def refused(self, command, /, **arguments: Any):
        with pytest.raises(QmpError) as caught:
            await self.do(command, **arguments)
        return caught.value.desc

    async def file(self, name, size=COUNT * CLUSTER, **more: Any):
        path = self.folder / f"{name}.raw"
        path.write_bytes(bytes(size))
        await self.do("blockdev-add", driver="file", node_name=name, filename=str(path), **more)
        return path

    async def serve(self):
        address = {"type": "unix", "data": {"path": str(self.folder / "nbd.sock")}}
        await self.do("nbd-server-start", addr=address)

    async def enter(self, export):
        uri = parse(f"nbd+unix:///{export}?socket={self.folder / 'nbd.sock'}")
        client = await NbdClient.connect(uri)
        self.clients.append(client)
        return client

    async def io(self, line, *, name="-d sda"):
        return await self.do("human-monitor-command", command_line=f'qemu-io {name} "{line}"')

    async def content(self, node, length=COUNT * CLUSTER):
        backend = Backend(self.daemon.system.graph)
        backend.attach(self.daemon.system.graph.find(node))
        data = bytearray(length)
        await backend.pread(0, memoryview(data))
        await backend.detach()
        return bytes(data)


@pytest.fixture
async def machine(tmp_path):
    async with Daemon(has_machine=True) as daemon:
        made = Machine(daemon, tmp_path)
        await made.do("device_add", driver="virtio-scsi", id="scsi0")
        yield made
        for client in made.clients:
            with contextlib.suppress(OSError):
                await client.close()


class Guest:
    """Writes ever higher numbers, cluster by cluster, and knows which it has been promised."""

    def __init__(self, client) -> None:
        self.client = client
        self.issued = [0] * COUNT
        self.acknowledged = [0] * COUNT
        self.writes = 0
        self.enough = False

    async def run(self):
        while not self.enough:
            self.writes += 1
            at, number = self.writes * 7 % COUNT, self.writes % 251 + 1
            self.issued[at] = number
            await self.client.pwrite(at * CLUSTER, memoryview(bytes([number]) * CLUSTER))
            self.acknowledged[at] = number


async def test_client_of_a_device_goes_on_writing_while_a_filter_is_put_under_it(machine):
    path = await machine.file("disk")
    await machine.file("temp")
    await machine.do("device_add", driver="virtio-blk", id="vda", drive="disk")
    await machine.serve()
    await machine.do("nbd-server-add", device="vda", writable=True)
    guest = Guest(await machine.enter("vda"))
    running = asyncio.create_task(guest.run())
    await until(lambda: guest.writes >= 100)
    cbw = {"driver": "copy-before-write", "file": "disk", "target": "temp"}
    await machine.do("blockdev-add", node_name="cbw", **cbw)
    before = list(guest.acknowledged)
    await machine.do("qom-set", path="vda", property="drive", value="cbw")
    between = list(guest.issued)
    at = guest.writes
    await machine.do("blockdev-add", driver="snapshot-access", node_name="past", file="cbw")
    await until(lambda: guest.writes >= at + 5 * COUNT)
    guest.enough = True
    await running
    past = await machine.content("past")
    for index in range(COUNT):
        cluster = past[index * CLUSTER :][:CLUSTER]
        assert cluster == cluster[:1] * CLUSTER
        assert cluster[0] in {before[index], between[index]}
    assert [machine.daemon.system.exports.query()[0].node_name] == ["cbw"]
    assert await machine.content("disk") == b"".join(
        bytes([number]) * CLUSTER for number in guest.acknowledged
    )
    await machine.do("blockdev-del", node_name="past")
    await machine.do("qom-set", path="vda", property="drive", value="disk")
    await guest.client.pwrite(0, memoryview(b"\xff" * 512))
    assert path.read_bytes()[:512] == b"\xff" * 512


async def test_client_of_a_device_is_thrown_out_when_the_device_goes(machine):
    await machine.file("disk")
    await machine.do("device_add", driver="scsi-hd", id="sda", drive="disk")
    await machine.serve()
    await machine.do("nbd-server-add", device="sda", writable=True)
    client = await machine.enter("sda")
    await machine.do("device_del", id="sda")
    assert machine.heard == ["BLOCK_EXPORT_DELETED", "DEVICE_DELETED"]
    with pytest.raises(OSError, match=r".+"):
        await client.pread(0, memoryview(bytearray(512)))
    await machine.do("blockdev-del", node_name="disk")


async def test_client_of_a_device_can_not_reach_past_the_end_of_a_smaller_node(machine):
    await machine.file("disk")
    await machine.file("small", CLUSTER)
    await machine.do("device_add", driver="scsi-hd", id="sda", drive="disk")
    await machine.serve()
    await machine.do("nbd-server-add", device="sda", writable=True)
    client = await machine.enter("sda")
    await machine.do("qom-set", path="sda", property="drive", value="small")
    with pytest.raises(OSError, match=r".+"):
        await client.pwrite(CLUSTER, memoryview(bytes(512)))
    with pytest.raises(OSError, match=r".+"):
        await client.pread(CLUSTER - 512, memoryview(bytearray(1024)))
    await client.pwrite(0, memoryview(b"\x01" * 512))
    assert (await machine.content("small", 512)) == b"\x01" * 512


async def test_export_of_a_device_leaves_the_device_as_it_was(machine):
    await machine.file("disk")
    await machine.do("device_add", driver="scsi-hd", id="sda", drive="disk")
    await machine.serve()
    await machine.do("nbd-server-add", device="sda", name="e", writable=True)
    await machine.do("nbd-server-remove", name="e")
    assert await machine.io("write 0 512") == ""
    assert "sda" in await machine.refused("device_add", driver="scsi-hd", drive="disk")


async def test_medium_of_a_drive_for_reading_is_exported_read_only(machine):
    await machine.file("disk")
    await machine.do("device_add", driver="scsi-cd", id="cd", drive="disk")
    await machine.do("device_add", driver="scsi-cd", id="none")
    await machine.serve()
    assert await machine.refused("nbd-server-add", device="none") == "Device 'none' has no medium"
    nothing = "Cannot find device='scsi0' nor node-name='scsi0'"
    assert await machine.refused("nbd-server-add", device="scsi0") == nothing
    await machine.do("nbd-server-add", device="cd", writable=True)
    client = await machine.enter("cd")
    with pytest.raises(OSError, match=r".+"):
        await client.pwrite(0, memoryview(bytes(512)))


@pytest.fixture
async def suspended(machine, capfd):
    """A disk with a break point at each of the next writes."""
    await machine.file("file", MIB)
    await machine.do("blockdev-add", driver="blkdebug", node_name="debug", image="file")
    await machine.do("blockdev-add", driver="raw", node_name="disk", file="debug")
    await machine.do("device_add", driver="scsi-hd", id="sda", drive="disk")
    await machine.io("break write_aio A", name="disk")
    return machine


async def test_asynchronous_request_of_a_device_goes_on_after_its_command(suspended, capfd):
    assert await suspended.io("aio_write -P 7 0 64k") == ""
    await suspended.io("wait_break A")
    assert capfd.readouterr().out == ""
    await suspended.io("resume A")
    await suspended.io("aio_flush")
    assert capfd.readouterr().out.startswith("wrote 65536/65536 bytes at offset 0\n")
    assert (await suspended.content("disk", CLUSTER)) == bytes([7]) * CLUSTER


async def test_request_that_a_break_point_holds_does_not_keep_the_program_from_ending(suspended):
    await suspended.io("aio_write 0 64k")
    await suspended.io("wait_break A")


async def test_failing_asynchronous_request_says_so_in_the_end(machine, capfd):
    await machine.do("device_add", driver="scsi-cd", id="sda")
    await machine.io("aio_read 0 512")
    await machine.io("aio_flush")
    assert capfd.readouterr().out == "readv failed: No medium found\n"


async def test_refused_device_leaves_nothing_behind(machine):
    await machine.file("disk")
    wrong = {"logical_block_size": "8k", "share-rw": "on"}
    assert await machine.daemon.dispatcher.call(
        "device_add", {"driver": "scsi-hd", "id": "sda", "drive": "disk"} | wrong
    ) == {
        "error": {
            "class": "GenericError",
            "desc": "logical_block_size > physical_block_size not supported",
        }
    }
    await machine.do("blockdev-del", node_name="disk")
    assert await machine.do("query-block") == []


async def test_medium_can_be_put_into_an_empty_drive(machine):
    await machine.file("disk")
    await machine.do("device_add", driver="scsi-cd", id="cd")
    await machine.do("qom-set", path="cd", property="drive", value="disk")
    assert (await machine.do("query-block"))[0]["inserted"]["node-name"] == "disk"
    await machine.do("qom-set", path="cd", property="drive", value="disk")


async def test_storage_daemon_has_no_devices():
    async with Daemon() as daemon:
        for command in ("device_add", "device_del", "system_reset", "device-list-properties"):
            reply = await daemon.dispatcher.call(command)
            assert reply["error"]["class"] == "CommandNotFound"
        names = {item["name"] for item in await daemon.execute("query-commands")}
        assert "device_add" not in names
        assert "query-block" in names


@pytest.mark.parametrize("typename", MODELS)
async def test_properties_are_listed_with_their_types(machine, typename):
    listed = await machine.do("device-list-properties", typename=typename)
    assert {item["name"]: item["type"] for item in listed} == {
        item.name: item.kind for item in MODELS[typename].properties
    }


async def test_client_of_a_device_is_counted_as_its_guest(machine):
    await machine.file("disk")
    await machine.do("device_add", driver="scsi-hd", id="sda", drive="disk")
    await machine.serve()
    await machine.do("nbd-server-add", device="sda", writable=True)
    client = await machine.enter("sda")
    await client.pwrite(CLUSTER, memoryview(bytes(512)))
    await client.pread(0, memoryview(bytearray(CLUSTER)))
    (stats,) = await machine.do("query-blockstats")
    told = stats["stats"]
    assert (told["wr_operations"], told["wr_bytes"]) == (1, 512)
    assert (told["rd_operations"], told["rd_bytes"]) == (1, CLUSTER)
    assert told["wr_highest_offset"] == CLUSTER + 512
    assert "idle_time_ns" not in told  # nobody has looked at a clock
