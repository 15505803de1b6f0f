"""Replies on their way to the client: sent together, and their memory taken back."""

import asyncio
from collections import deque
from typing import Final

from qmpfleece.base.units import KIB
from qmpfleece.exports.nbd.client import Client
from qmpfleece.nbdproto.buffers import Buffer

#: Replies are joined for one send up to this size in all, in bytes.
_JOIN_SIZE: Final = 256 * KIB


class Outgoing:
    """Sends what a client's requests have collected.

    Args:
        client: Has the replies, and the memory that they are made in.
        transport: Where to; it may still read the memory until it has sent them.
    """

    def __init__(self, client: Client, transport: asyncio.Transport) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._client: Final = client
        self._transport: Final = transport
        self._written = 0
        #: Memory of replies on their way: how much is written when it is free, and the buffers.
        self._on_way: deque[tuple[int, list[Buffer]]] = deque()

    def send(self, *, paused: bool) -> None:
        """Send all that is complete.

        Args:
            paused: The transport has more than enough, and will say when that is sent.
        """
        client, transport = self._client, self._transport
        if client.courier is not None and client.courier.pending:
            return  # it is the courier's turn to send
        out = client.out
        if (row := client.take_row()) is not None:
            out.append(row)
        if transport.is_closing():  # the client is gone, or was answered to the end
            out.clear()
            client.release_lent()
            return
        if out:
            size = sum(map(len, out))
            self._written += size
            if len(out) == 1:
                transport.write(out[0])
            elif size <= _JOIN_SIZE:
                transport.write(b"".join(out))
            else:
                for reply in out:
                    transport.write(reply)
            out.clear()
            if client.lent:
                self._on_way.append((self._written, client.lent))
                client.lent = []
        if self._on_way:
            self.reclaim()
            if self._on_way and not paused:
                self._loop.call_soon(self.reclaim)

    def reclaim(self) -> None:
        """Take back the memory of replies that are sent; a closing transport may still send."""
        if not self._on_way or self._transport.is_closing():
            return
        sent = self._written - self._transport.get_write_buffer_size()
        while self._on_way and self._on_way[0][0] <= sent:
            for buffer in self._on_way.popleft()[1]:
                buffer.release()

    def close(self) -> None:
        """Give all memory back; the transport is gone and no request is in flight.

        Unless uvloop still has some of it to send: that stops with its next turn. Whoever had the
        memory until then would send what is in it.
        """
        if self._transport.get_write_buffer_size():
            return
        for _, buffers in self._on_way:
            for buffer in buffers:
                buffer.release()
        self._on_way.clear()
        self._client.out.clear()
        self._client.close()
