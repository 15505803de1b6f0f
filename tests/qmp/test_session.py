import asyncio
import json
import os
import select
import socket
from typing import Any, Self

import pytest
from qemu.qmp import ExecuteError, Runstate

from qmpfleece.control.command import Command
from qmpfleece.control.commands.misc import Stop
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.qmp import session as session_module
from qmpfleece.qmp.session import MAX_REQUESTS, Session
from tests.tools.qmp_pair import make_system, qmp_pair
from tests.tools.until import until


class Raw:
    """A client that sends bytes and reads lines."""

    def __init__(self, dispatcher, **options: bool) -> None:
        self.session = Session(dispatcher, **options)
        ours, self.sock = socket.socketpair()
        self.task = asyncio.create_task(self.session.run(ours))

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(sock=self.sock, limit=1 << 24)
        assert "QMP" in await self.line()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()
        await asyncio.wait({self.task})
        await asyncio.gather(self.task, return_exceptions=True)

    async def line(self):
        data = await self.reader.readline()
        assert not data or data.endswith(b"\r\n")
        return json.loads(data) if data else None

    async def ask(self, data):
        self.writer.write(data)
        return await self.line()

    async def negotiate(self):
        assert await self.ask(b'{"execute":"qmp_capabilities"}') == {"return": {}}


@pytest.fixture
def dispatcher():
    return Dispatcher(make_system())


def with_commands(**handlers: Any):
    """Return a dispatcher that knows some commands of the test, too."""
    dispatcher = Dispatcher(make_system())
    own = {name: Command(name, handler, exclusive=True) for name, handler in handlers.items()}
    return Dispatcher(dispatcher.system, {**dispatcher.commands, **own})


async def test_the_client_of_qemu_qmp_connects_asks_and_is_refused():
    async with qmp_pair() as pair:
        assert (await pair.client.execute("query-status"))["status"] == "running"
        with pytest.raises(ExecuteError, match="has not been found"):
            await pair.client.execute("nope")
        assert (await pair.client.execute("query-version"))["qemu"]["major"] == 7


async def test_events_come_to_every_negotiated_client_and_to_no_other(dispatcher):
    async with Raw(dispatcher) as one, Raw(dispatcher) as two, Raw(dispatcher) as silent:
        await one.negotiate()
        await two.negotiate()
        event = await one.ask(b'{"execute":"stop"}')
        assert event["event"] == "STOP"
        assert set(event["timestamp"]) == {"seconds", "microseconds"}
        assert "data" not in event
        assert await one.line() == {"return": {}}
        assert (await two.line()) == event
        # Were the event sent to it, it would be the next line.
        assert "error" in await silent.ask(b'{"execute":"query-status"}')


async def test_replies_come_in_order_with_their_ids(dispatcher):
    async with Raw(dispatcher) as raw:
        await raw.negotiate()
        count = 3 * MAX_REQUESTS
        raw.writer.write(b"".join(b'{"execute":"query-name","id":%d}' % i for i in range(count)))
        assert [(await raw.line())["id"] for _ in range(count)] == list(range(count))


async def test_malformed_input_is_answered_in_its_place_and_the_session_goes_on(dispatcher):
    async with Raw(dispatcher) as raw:
        await raw.negotiate()
        raw.writer.write(b'{"execute":"query-name","id":1}{"a" 1}{"execute":"query-name","id":2}')
        assert await raw.line() == {"return": {}, "id": 1}
        error = (await raw.line())["error"]
        assert error == {
            "class": "GenericError",
            "desc": "JSON parse error, missing : in object pair",
        }
        assert await raw.line() == {"return": {}, "id": 2}


async def test_id_of_1024_levels_is_echoed(dispatcher):
    deep = b"[" * 1023 + b"]" * 1023
    async with Raw(dispatcher) as raw:
        raw.writer.write(b'{"id":' + deep + b"}")
        assert (await raw.reader.readline()).startswith(b'{"id": ' + deep)


async def test_pretty_session_sends_indented_lines(dispatcher):
    session = Session(dispatcher, pretty=True)
    ours, theirs = socket.socketpair()
    task = asyncio.create_task(session.run(ours))
    reader, writer = await asyncio.open_connection(sock=theirs)
    assert await reader.readuntil(b"\r\n}\r\n")
    writer.write(b'{"execute":"qmp_capabilities"}')
    assert await reader.readuntil(b"\r\n}\r\n") == b'{\r\n    "return": {\r\n    }\r\n}\r\n'
    writer.close()
    await task


async def test_client_that_says_all_and_closes_its_half_gets_every_reply(dispatcher):
    async with Raw(dispatcher) as raw:
        raw.writer.write(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-name"}' * 20)
        raw.writer.write_eof()
        lines = [await raw.line() for _ in range(22)]
        assert lines == [{"return": {}}] * 21 + [None]


async def test_reply_to_a_slow_command_comes_after_the_client_has_closed_its_half():
    gate = asyncio.Event()

    async def slow(_system):
        await gate.wait()
        return "x" * 300_000  # all three are more than the socket takes at once

    async with Raw(with_commands(slow=slow)) as raw:
        await raw.negotiate()
        raw.writer.write(b'{"execute":"slow"}' * 3)
        raw.writer.write_eof()
        await until(lambda: raw.session._busy and raw.session._reader.at_eof())
        raw.writer.transport.pause_reading()
        gate.set()
        await until(lambda: raw.session._requests.empty() and not raw.session._busy)
        raw.writer.transport.resume_reading()
        for _ in range(3):
            assert len((await raw.line())["return"]) == 300_000
        assert await raw.line() is None


async def test_command_of_a_vanished_client_is_finished():
    gate = asyncio.Event()
    done = asyncio.Event()

    async def slow(_system):
        await gate.wait()
        done.set()

    dispatcher = with_commands(slow=slow)
    raw = Raw(dispatcher)
    async with raw:
        await raw.negotiate()
        raw.writer.write(b'{"execute":"slow"}')
        await until(lambda: raw.session._busy)
        raw.writer.transport.abort()
        dispatcher.system.bus.emit(Stop())  # it can't be sent, so the session ends
        await until(lambda: raw.session.runstate is not Runstate.RUNNING)
        assert not raw.task.done()
        gate.set()
    assert done.is_set()
    assert raw.task.done()


async def test_client_that_hangs_up_without_reading_is_no_failure(dispatcher, caplog):
    raw = Raw(dispatcher)
    await until(lambda: select.select([raw.sock], [], [], 0)[0])
    raw.sock.send(b'{"execute":"qmp_capabilities"}')
    raw.sock.close()  # the greeting was not read, which the session hears as an error
    await asyncio.wait({raw.task})
    assert caplog.text == ""


async def test_client_that_reads_nothing_is_not_served_further(dispatcher, monkeypatch):
    monkeypatch.setattr(session_module, "HIGH_WATER", 100)
    served = []

    async def talk(_system):
        served.append(1)
        return "x" * 1_000_000

    async with Raw(with_commands(talk=talk)) as raw:
        await raw.negotiate()
        raw.writer.transport.pause_reading()
        raw.writer.write(b'{"execute":"talk"}' * 100)
        await until(lambda: not raw.session._room.is_set())
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(served) < 10
        raw.writer.transport.resume_reading()
        for _ in range(100):
            assert len((await raw.line())["return"]) == 1_000_000
        assert len(served) == 100


async def test_client_that_lets_events_pile_up_is_dropped(dispatcher, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_UNSENT", 10_000)
    async with Raw(dispatcher) as raw:
        await raw.negotiate()
        raw.writer.transport.pause_reading()
        for _ in range(100_000):
            dispatcher.system.bus.emit(Stop())
            if raw.task.done() or not raw.session._unsent:
                await asyncio.sleep(0)
            if raw.session._unsent > 10_000:
                break
        await asyncio.wait({raw.task})
        assert raw.task.exception() is None


async def test_cancelled_session_sends_its_replies_first(dispatcher):
    async with Raw(dispatcher) as raw:
        await raw.negotiate()
        dispatcher.system.bus.emit(Stop())
        raw.task.cancel()
        assert (await raw.line())["event"] == "STOP"
        assert await raw.line() is None


async def test_cancelled_session_does_not_wait_for_ever_for_a_deaf_client(dispatcher, monkeypatch):
    monkeypatch.setattr(session_module, "FLUSH_TIMEOUT_S", 0.05)

    async def talk(_system):
        return "x" * 10_000_000

    async with Raw(with_commands(talk=talk)) as raw:
        await raw.negotiate()
        raw.writer.transport.pause_reading()
        raw.writer.write(b'{"execute":"talk"}')
        await until(lambda: raw.session._unsent)
        raw.task.cancel()
        await asyncio.wait({raw.task})


async def test_cancelled_session_ends_a_hung_command(dispatcher):
    async def hang(_system):
        await asyncio.get_running_loop().create_future()

    async with Raw(with_commands(hang=hang)) as raw:
        await raw.negotiate()
        raw.writer.write(b'{"execute":"hang"}')
        await until(lambda: raw.session._busy)
        raw.task.cancel()
        assert await raw.line() is None


async def test_cancelling_a_session_that_hangs_up_leaves_nothing(dispatcher, monkeypatch):
    monkeypatch.setattr(session_module, "FLUSH_TIMEOUT_S", 0.05)

    async def talk(_system):
        return "x" * 10_000_000

    async with Raw(with_commands(talk=talk)) as raw:
        await raw.negotiate()
        raw.writer.transport.pause_reading()
        raw.writer.write(b'{"execute":"talk"}')
        await until(lambda: raw.session._unsent)
        raw.task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
            raw.task.cancel()
        await asyncio.wait({raw.task})
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_descriptor_of_a_command_that_never_ran_is_left_open():
    async def hang(_system):
        await asyncio.get_running_loop().create_future()

    async with Raw(with_commands(hang=hang)) as raw:
        await raw.negotiate()
        inner, outer = os.pipe()
        os.set_blocking(inner, False)
        for _ in range(MAX_REQUESTS + 2):  # one runs, one has no room to wait
            socket.send_fds(raw.sock, [b'{"execute":"hang"}'], [outer])
        os.close(outer)
        await until(raw.session._requests.full)
        await until(lambda: not select.select([raw.session._reader._sock], [], [], 0)[0])
        raw.task.cancel()
        await asyncio.wait({raw.task})
        assert os.read(inner, 1) == b""  # nobody can write any more
        os.close(inner)


class Plentiful(asyncio.StreamReader):
    """A socket that has more whenever it is read, until it ends."""

    pieces = 100

    async def read(self, n: int = -1) -> bytes:
        self.pieces -= 1
        return b" " * n if self.pieces else b""


async def test_others_have_a_turn_after_each_piece_of_what_is_no_value(dispatcher):
    turns = 0
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_connection(sock=ours)
        serving = asyncio.create_task(Session(dispatcher).run((Plentiful(), writer)))
        while not serving.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns > Plentiful.pieces
