"""A dispatcher over a real graph of gate disks: what a client says, hears, and what happens."""

import asyncio
from typing import Any

from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.control.dispatch import Client, Dispatcher
from qmpfleece.control.system import System
from qmpfleece.qapi.bus import EventBus
from tests.tools.gate import GateDisk, add_disk
from tests.tools.tasks import all_ended
from tests.tools.until import settle


class Desk:
    """One client; ``close`` ends everything and checks that nothing is left.

    Attributes:
        heard: Replies and events in the order of their arrival, as short texts: ``j running``,
            ``return``, ``error: TEXT``.
    """

    def __init__(self) -> None:
        self.graph = Graph(Workers())
        self.system = System(bus=EventBus(), graph=self.graph, exports=None)
        self.dispatcher = Dispatcher(self.system)
        self.heard: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.system.bus.subscribe(self._hear)
        self.disks: dict[str, GateDisk] = {}
        self.guests: list[Backend] = []
        self.tasks: list[asyncio.Future[Any]] = []

    def _hear(self, event: Any, _us: int) -> None:
        data = event.to_wire()
        self.events.append({"event": event.event_name, **data})
        ident = data.get("id") or data.get("device")
        self.heard.append(f"{ident} {data.get('status') or event.event_name}")

    def disk(self, name: str, data: bytes, **options: Any) -> GateDisk:
        self.disks[name] = add_disk(self.graph, name, data, **options)
        return self.disks[name]

    def guest(self, name: str, drive: str = "") -> Backend:
        """Return the handle of a guest on a node; ``drive`` makes it one of that name."""
        backend = Backend(self.graph, drive, Perm.CONSISTENT_READ | Perm.WRITE)
        backend.attach(self.graph.find(name))
        if drive:
            self.system.drives.add(backend)
        self.guests.append(backend)
        return backend

    def later(self, request: Any) -> "asyncio.Future[Any]":
        """Start a request of a guest; it goes on while the test looks on."""
        task = asyncio.ensure_future(request)
        self.tasks.append(task)
        return task

    async def say(self, command: str, arguments: Any = None, /, **more: Any) -> Any:
        """Execute a command; return what it returned, or the text of its error."""
        members = dict(arguments or {}) | {k.replace("_", "-"): v for k, v in more.items()}
        request = {"execute": command, "arguments": members}
        replies: list[dict[str, Any]] = []

        def send(reply: dict[str, Any]) -> None:
            replies.append(reply)
            self.heard.append("return" if "return" in reply else f"error: {_text(reply)}")

        await self.dispatcher.serve(request, Client(negotiated=True), send)
        return replies[0]["return"] if "return" in replies[0] else _text(replies[0])

    async def take(self) -> list[str]:
        """Let all run that can; return what was heard since the last call."""
        await settle()
        heard, self.heard = self.heard, []
        return heard

    async def until(self, text: str) -> None:
        """Wait until an event was heard."""
        if text in self.heard:
            return
        heard = asyncio.Event()
        cancel = self.system.bus.subscribe(lambda *_: text in self.heard and heard.set())
        await heard.wait()
        cancel()

    def bitmap(self, node: str, name: str | None) -> Any:
        return next(b for b in self.graph.find(node).bitmaps if b.name == name)

    async def close(self) -> None:
        for disk in self.disks.values():
            disk.release()
            disk.errors.clear()
        await all_ended(self.tasks)
        await self.system.jobs.close()
        for guest in self.guests:
            await guest.detach()
        for node in self.graph.nodes():
            assert not node.in_flight
            assert not node.quiesced
            assert not node.blockers
            assert [b for b in node.bitmaps if b.name is None or b.busy] == []
        assert {node.name for node in self.graph.nodes() if not node.monitor_owned} == set()
        await self.graph.close()
        self.graph.workers.close()


def _text(reply: dict[str, Any]) -> str:
    text: str = reply["error"]["desc"]
    return text
