from typing import Any

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from qmpfleece.control.dispatch import Client, Dispatcher
from qmpfleece.control.system import System
from qmpfleece.exports.manager import ExportManager
from qmpfleece.qapi.bus import EventBus
from tests.tools.gate import add_disk


class Session:
    """One client; ``seen`` holds its replies and the events, in order."""

    def __init__(self, path) -> None:
        bus, graph = EventBus(), Graph(Workers())
        add_disk(graph, "disk", bytes(4096))
        add_disk(graph, "ro", bytes(4096), read_only=True)
        self.exports = ExportManager(graph, bus)
        self.dispatcher = Dispatcher(System(bus=bus, graph=graph, exports=self.exports))
        self.client = Client(negotiated=True)
        self.address = {"type": "unix", "data": {"path": path}}
        self.seen = []
        bus.subscribe(lambda event, _us: self.seen.append(event.event_name))

    async def ask(self, command_name, /, **arguments: Any):
        wire = {key.replace("_", "-"): value for key, value in arguments.items()}
        before = len(self.seen)
        request = {"execute": command_name, "arguments": wire}
        await self.dispatcher.serve(request, self.client, self.seen.append)
        reply = next(said for said in self.seen[before:] if isinstance(said, dict))
        return reply["return"] if "return" in reply else reply["error"]["desc"]


@pytest.fixture
async def session(tmp_path):
    made = Session(str(tmp_path / "s"))
    yield made
    await made.exports.close()


async def test_server_and_exports_come_and_go(session):
    assert await session.ask("nbd-server-start", addr=session.address) == {}
    assert await session.ask("nbd-server-add", device="disk", writable=True) == {}
    export = {"type": "nbd", "id": "e", "node_name": "disk", "name": "e"}
    assert await session.ask("block-export-add", **export, allocation_depth=True) == {}
    found = await session.ask("query-block-exports")
    assert [(item["id"], item["node-name"], item["shutting-down"]) for item in found] == [
        ("e", "disk", False),
        ("disk", "disk", False),
    ]
    assert await session.ask("nbd-server-stop") == {}
    assert session.seen[-3:] == [*["BLOCK_EXPORT_DELETED"] * 2, {"return": {}}]
    assert await session.ask("query-block-exports") == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nbd-server-remove", {"name": "disk"}),
        ("block-export-del", {"id": "disk", "mode": "hard"}),
    ],
)
async def test_removal_is_replied_to_before_its_event(session, name, arguments):
    await session.ask("nbd-server-start", addr=session.address)
    await session.ask("nbd-server-add", device="disk")
    await session.ask(name, **arguments)
    assert session.seen[-2:] == [{"return": {}}, "BLOCK_EXPORT_DELETED"]


async def test_errors_are_qemus(session):
    assert await session.ask("nbd-server-stop") == "NBD server not running"
    assert await session.ask("nbd-server-add", device="disk") == "NBD server not running"
    tls = await session.ask("nbd-server-start", addr=session.address, tls_creds="t")
    assert tls == "No TLS credentials with id 't'"
    await session.ask("nbd-server-start", addr=session.address)
    for name, arguments, text in [
        ("nbd-server-start", {"addr": session.address}, "NBD server already running"),
        ("nbd-server-add", {"device": "x"}, "Cannot find device='x' nor node-name='x'"),
        ("nbd-server-add", {"device": "disk", "name": ""}, "Invalid block export id"),
        ("nbd-server-remove", {"name": "x"}, "Export 'x' is not found"),
        ("block-export-del", {"id": "x", "mode": "y"}, None),
        (
            "block-export-add",
            {"type": "nope", "id": "e", "node_name": "disk"},
            "Parameter 'type' does not accept value 'nope'",
        ),
        (
            "block-export-add",
            {"type": "nbd", "id": "e", "node_name": "disk", "zz": 1},
            "Parameter 'zz' is unexpected",
        ),
        (
            "block-export-add",
            {"type": "nbd", "id": "e", "node_name": "ro", "writable": True},
            "Cannot export read-only node as writable",
        ),
    ]:
        said = await session.ask(name, **arguments)
        assert said == (text or "Parameter 'mode' does not accept value 'y'")
    assert await session.ask("query-block-exports") == []
