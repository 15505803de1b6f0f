"""A dispatcher over a system without nodes and exports, and what its clients were sent."""

from typing import Any

import pytest

from qmpfleece.base.workers import Workers
from qmpfleece.block.graph import Graph
from qmpfleece.control import command
from qmpfleece.control.dispatch import Client, Dispatcher
from qmpfleece.control.system import System
from qmpfleece.qapi.bus import EventBus


class Talk:
    """One client talking to a dispatcher; replies and events in one list."""

    def __init__(self, dispatcher: Dispatcher, client: Client) -> None:
        self.dispatcher = dispatcher
        self.client = client
        self.seen = []
        dispatcher.system.bus.subscribe(lambda event, _us: self.seen.append(event.event_name))

    async def ask(self, request):
        await self.dispatcher.serve(request, self.client, self.seen.append)
        return self.seen[-1]

    async def refused(self, request):
        reply = await self.ask(request)
        return reply["error"]["desc"]


@pytest.fixture
def system():
    return System(bus=EventBus(), graph=Graph(Workers()), exports=None)


@pytest.fixture
def talk(system):
    return Talk(Dispatcher(system), Client(negotiated=True))


@pytest.fixture
def make_talk(system):
    """Talk to commands of the test's own."""

    def make(negotiated=True, **commands: dict[str, Any]):
        table = {name: command.Command(name, **what) for name, what in commands.items()}
        return Talk(Dispatcher(system, table), Client(negotiated=negotiated))

    return make
