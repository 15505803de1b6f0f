"""The human monitor on a connection: a prompt, lines, and what their commands say.

Typed text is echoed as QEMU's line editor does, redrawing the line after each key, whoever
listens. There is no history and no completion.

Source: what qemu-system-x86_64 7.2 writes to ``-monitor stdio``.
"""

import asyncio
import socket
from typing import Final

from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.control.version import QEMU

_PROMPT: Final = "(qemu) "
_READ_BYTES: Final = 4096
_DELETE: Final = frozenset({"\b", "\x7f"})


class HumanSession:
    """A person's session. ``await run(...)`` serves it to its end.

    Args:
        dispatcher: Runs the commands.
        stays: The end of input does not end the session (stdio).
    """

    def __init__(self, dispatcher: Dispatcher, *, stays: bool = False) -> None:
        self._dispatcher: Final = dispatcher
        self._stays: Final = stays
        self._line = ""
        self._shown = 0

    async def run(
        self, connection: "socket.socket | tuple[asyncio.StreamReader, asyncio.StreamWriter]"
    ) -> None:
        """Serve the person until they hang up, or until this is cancelled."""
        if isinstance(connection, socket.socket):
            reader, writer = await asyncio.open_connection(sock=connection)
        else:
            reader, writer = connection
        number = ".".join(map(str, QEMU))
        writer.write(
            f"QEMU {number} monitor - type 'help' for more information\r\n{_PROMPT}".encode()
        )
        try:
            while data := await reader.read(_READ_BYTES):
                for letter in data.decode(errors="replace"):
                    await self._key(letter, writer)
                await writer.drain()
            if self._stays:
                await asyncio.get_running_loop().create_future()
        except ConnectionError:
            return  # what somebody who leaves looks like
        finally:
            writer.close()

    async def _key(self, letter: str, writer: asyncio.StreamWriter) -> None:
        if letter in {"\r", "\n"}:
            line, self._line, self._shown = self._line, "", 0
            writer.write(b"\r\n")
            await writer.drain()
            answer = await self._execute(line)
            prompt = "" if self._dispatcher.system.shutdown.is_set() else _PROMPT
            writer.write((answer + prompt).encode())
            return
        if letter in _DELETE:
            self._line = self._line[:-1]
        elif letter.isprintable():
            self._line += letter
        back = "\x1b[D" * self._shown
        self._shown = len(self._line)
        writer.write(f"{back}{self._line}\x1b[K".encode())

    async def _execute(self, line: str) -> str:
        reply = await self._dispatcher.call("human-monitor-command", {"command-line": line})
        if "error" in reply:
            return f"Error: {reply['error']['desc']}\r\n"
        text: str = reply["return"]
        return text
