"""A QMP session of ours and the client of qemu.qmp, joined by a socket pair.

::

    async with qmp_pair(system) as pair:
        assert await pair.client.execute("query-status") == {...}
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from qemu.qmp import QMPClient

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.control.system import System
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qmp.session import Session


def make_system() -> System:
    """Return a system without nodes and exports, all commands loaded."""
    return System(bus=EventBus(), graph=Graph(Workers()), exports=None)


@dataclass
class QmpPair:
    """The real client, connected and negotiated, and the session that serves it."""

    client: QMPClient
    session: Session
    system: System


@contextlib.asynccontextmanager
async def qmp_pair(system: System | None = None) -> AsyncIterator[QmpPair]:
    """Join a client and a session; both are ended, and nothing is left, on exit."""
    system = system or make_system()
    session = Session(Dispatcher(system))
    ours, theirs = socket.socketpair()
    task = asyncio.create_task(session.run(ours))
    client = QMPClient("test")
    await client.connect(theirs)
    try:
        yield QmpPair(client, session, system)
    finally:
        with contextlib.suppress(EOFError):
            await client.disconnect()
        await task
