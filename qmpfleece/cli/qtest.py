"""The qtest protocol, as far as tests of disks use it: lines in, lines out, a clock that is set.

The virtual clock of a machine whose guest never runs stands still; it goes forward by what the
client says and nothing depends on it.

Source: what qemu-system-x86_64 7.2 answers. Differs: it is not logged to stderr; commands that
reach into a guest are unknown.
"""

import asyncio
import contextlib
import socket
from typing import Final

from qmpfleece.base.digits import c_number
from qmpfleece.base.units import MIB
from qmpfleece.cli.chardev import Chardev
from qmpfleece.qmp.sockets import first_clients

_CLOCKS: Final = ("clock_step", "clock_set")
#: The longest line, in bytes. QEMU takes any; clients write data so.
_MAX_LINE: Final = 64 * MIB


class QTest:
    """Answers one client, or those who come one after the other.

    Args:
        device: Where they are.
    """

    def __init__(self, device: Chardev) -> None:
        self._now_ns = 0
        self._device: Final = device
        self._task: Final = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._device.close()

    async def _serve(self) -> None:
        for connection in self._device.connections:
            await self._answer(connection)
        if self._device.listening is not None:
            while True:
                for connection in await first_clients(self._device.listening.sockets):
                    await self._answer(connection)

    async def _answer(self, connection: socket.socket) -> None:
        """Answer a client until it hangs up, or sends a line that is too long."""
        with contextlib.suppress(OSError, ValueError):
            reader, writer = await asyncio.open_connection(sock=connection, limit=_MAX_LINE)
            try:
                while line := await reader.readline():
                    writer.write(f"{self.reply(line.decode(errors='replace'))}\n".encode())
                    await writer.drain()
            finally:
                writer.close()

    def reply(self, line: str) -> str:
        """Return the answer to a command."""
        name, *words = line.split() or [""]
        if name == "endianness":
            return "OK little"
        if name not in _CLOCKS:
            return f"FAIL Unknown command '{name}'"
        value = c_number(words[0]) if words else 0
        if value is None or abs(value) >> 63:
            return "FAIL invalid number"
        self._now_ns = max(self._now_ns, value if name == "clock_set" else self._now_ns + value)
        return f"OK {self._now_ns}"
