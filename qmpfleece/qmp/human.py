"""The human monitor on a connection: a prompt, lines, and what their commands say.

Typed text is echoed as QEMU's line editor does, redrawing the line after each byte that changes
it, whoever listens. There is no history and no completion, and the cursor stays at the end.

Source: what qemu-system-x86_64 7.2 writes to ``-monitor stdio``.
"""

import asyncio
import socket
from typing import Final

from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.control.version import QEMU

_PROMPT: Final = "(qemu) "
_READ_BYTES: Final = 4096
#: The longest line, in bytes; what is typed beyond is lost.
_MAX_LINE: Final = 4095
_DELETE: Final = b"\b\x7f"
_ESCAPE: Final = 0x1B
#: Begins a sequence that a terminal sends for a key, in one byte.
_CSI: Final = 0x9B
_DIGITS: Final = b"0123456789"


class HumanSession:
    """A person's session. ``await run(...)`` serves it to its end.

    Args:
        dispatcher: Runs the commands.
        stays: The end of input does not end the session (stdio).
    """

    def __init__(self, dispatcher: Dispatcher, *, stays: bool = False) -> None:
        self._dispatcher: Final = dispatcher
        self._stays: Final = stays
        self._line = bytearray()
        #: What a sequence for a key has begun with so far: ESC, [ or O.
        self._sequence = b""

    async def run(
        self, connection: "socket.socket | tuple[asyncio.StreamReader, asyncio.StreamWriter]"
    ) -> None:
        """Serve the person until they hang up, or until this is cancelled."""
        if isinstance(connection, socket.socket):
            reader, writer = await asyncio.open_connection(sock=connection)
        else:
            reader, writer = connection
        handed_over = self._dispatcher.system.fdsets
        handed_over.client_came()
        number = ".".join(map(str, QEMU))
        writer.write(
            f"QEMU {number} monitor - type 'help' for more information\r\n{_PROMPT}".encode()
        )
        try:
            while data := await reader.read(_READ_BYTES):
                for byte in data:
                    await self._take(byte, writer)
                    await writer.drain()
            if self._stays:
                await asyncio.get_running_loop().create_future()
        except OSError:
            return  # what somebody who leaves, or whose host does, looks like
        except asyncio.CancelledError:
            writer.transport.abort()  # what they have not read must not keep a terminal raw
            raise
        finally:
            writer.close()
            handed_over.client_went()

    async def _take(self, byte: int, writer: asyncio.StreamWriter) -> None:
        if self._sequence:
            self._go_on(byte)
        elif byte in b"\r\n":
            line, self._line = self._line, bytearray()
            writer.write(b"\r\n")
            await writer.drain()
            answer = await self._execute(line.decode(errors="surrogateescape"))
            prompt = "" if self._dispatcher.system.shutdown.is_set() else _PROMPT
            writer.write((answer + prompt).encode(errors="surrogateescape"))
        elif byte in {_ESCAPE, _CSI}:
            self._sequence = b"[" if byte == _CSI else b"\x1b"
        else:
            self._edit(byte, writer)

    def _go_on(self, byte: int) -> None:
        """Skip a byte of a sequence."""
        if self._sequence == b"\x1b":
            self._sequence = bytes([byte]) if byte in b"[O" else b""
        elif self._sequence == b"O" or byte not in _DIGITS:
            self._sequence = b""

    def _edit(self, byte: int, writer: asyncio.StreamWriter) -> None:
        """Change the line and draw it again."""
        line, shown = self._line, len(self._line)
        if byte in _DELETE:
            del line[-1:]
        elif byte >= 0x20 and shown < _MAX_LINE:
            line.append(byte)
        if len(line) != shown:
            writer.write(b"\x1b[D" * shown + line + b"\x1b[K")

    async def _execute(self, line: str) -> str:
        reply = await self._dispatcher.call("human-monitor-command", {"command-line": line})
        if "error" in reply:
            return f"Error: {reply['error']['desc']}\r\n"
        text: str = reply["return"]
        return text
