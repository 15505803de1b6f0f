"""An NBD client that costs little: requests and replies a batch at a time.

::

    lean_client.py read URI LENGTH DEPTH CONNECTIONS SECONDS

reads LENGTH bytes at random places, DEPTH requests at once on each connection. Prints how many
were answered a second; the first fifth of the time does not count. ::

    lean_client.py write URI LENGTH DEPTH CONNECTIONS OFFSETS

writes LENGTH bytes at each of the offsets in the file OFFSETS, 64 bits of the machine each, in
that order, dealt out to the connections. Prints how many were answered a second.

Imports nothing of the benchmarks, for it runs as a program of its own.
"""

import array
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

from qmpfleece.nbdclient import uri
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.client import ClientHandshake, pack_request

#: How many reads are made in advance; then they are sent again.
_READS: Final = 1 << 15
#: How each reply to a read begins: one chunk of data, and done.
_DATA: Final = struct.pack(
    ">IHH", const.STRUCTURED_REPLY_MAGIC, const.REPLY_FLAG_DONE, const.REPLY_TYPE_OFFSET_DATA
)
#: How each reply to a write begins: no error.
_WRITTEN: Final = struct.pack(">II", const.SIMPLE_REPLY_MAGIC, 0)


class Connection:
    """A connection, and the requests that are sent on it.

    Args:
        where: The export's URI: on a unix socket.

    Attributes:
        size: Of the export, in bytes.
    """

    def __init__(self, where: str) -> None:
        place = uri.parse(where)
        self._socket: Final = socket.socket(socket.AF_UNIX)
        self._socket.connect(place.path)
        machine = ClientHandshake(place.name)
        while machine.result is None:
            self._socket.sendall(machine.feed(self._socket.recv(4096)))
        self.size: Final = machine.result.size

    def prepare(
        self,
        requests: Iterable[bytes],
        begins: bytes,
        reply: int,
        depth: int,
        *,
        payload: bytes = b"",
        again: bool = False,
    ) -> None:
        """Say what is to be sent.

        Args:
            requests: All of one size.
            payload: What follows each; sent from one place, which stays in the cache.
            begins: How each reply begins.
            reply: The size of each, in bytes.
            depth: How many are in flight.
            again: After the last one comes the first.
        """
        every = tuple(requests)
        self._count = len(every)
        self._size = len(every[0])
        # As many as there may be room for behind the last one.
        self._requests = memoryview(b"".join((*every, *every[: again * depth])))
        self._payload = payload
        self._next = 0
        self._again = again
        self._begins = begins
        self._reply = reply
        self._memory = bytearray(depth * reply)
        self._have = 0

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, count: int) -> None:
        """Send the next ones."""
        at, size, requests = self._next, self._size, self._requests
        end = at + count if self._again else min(at + count, self._count)
        if not self._payload:
            self._socket.sendall(requests[at * size : end * size])
        elif at < end:
            parts: list[bytes | memoryview] = []
            for number in range(at, end):
                parts += requests[number * size : (number + 1) * size], self._payload
            sent = self._socket.sendmsg(parts)
            assert sent == (end - at) * (size + len(self._payload)), "the socket does not wait"
        self._next = end % self._count if self._again else end

    def receive(self) -> int:
        """Receive what is there; return how many replies became whole.

        Raises:
            ValueError: A reply is another than was to be expected.
        """
        memory, size, begins = memoryview(self._memory), self._reply, self._begins
        received = self._socket.recv_into(memory[self._have :])
        if not received:
            raise EOFError("the server has hung up")
        self._have += received
        count = self._have // size
        end = count * size
        for at in range(0, self._have - len(begins) + 1, size):  # the one that is not whole, too
            if self._memory[at : at + len(begins)] != begins:
                raise ValueError(f"not the reply that was due: {self._memory[at : at + 20]!r}")
        memory[: self._have - end] = memory[end : self._have]
        self._have -= end
        return count

    def close(self) -> None:
        """Say goodbye; all replies have come."""
        self._socket.sendall(pack_request(const.CMD_DISC, 0))
        self._socket.close()


class Client:
    """Several connections, on each of which so many requests are in flight."""

    def __init__(self, connections: Sequence[Connection], depth: int) -> None:
        self._connections: Final = connections
        self._by_fd: Final = {each.fileno(): each for each in connections}
        self._epoll: Final = select.epoll()
        for number in self._by_fd:
            self._epoll.register(number, select.EPOLLIN)
        for connection in connections:
            connection.send(depth)

    def _ready(self) -> Iterable[Connection]:
        if len(self._connections) == 1:
            return self._connections  # which waits by itself
        return [self._by_fd[number] for number, _ in self._epoll.poll()]

    def go_on(self) -> int:
        """Send as many requests as are answered, once some are; return the number."""
        total = 0
        for connection in self._ready():
            if answered := connection.receive():
                connection.send(answered)
                total += answered
        return total

    def finish(self, left: int) -> None:
        """Wait for the replies that are still to come, and say goodbye."""
        while left:
            left -= sum(connection.receive() for connection in self._ready())
        for connection in self._connections:
            connection.close()
        self._epoll.close()


def read(where: str, length: int, depth: int, count: int, seconds: float) -> float:
    """Read at random places on ``count`` connections; return the reads a second."""
    connections = [Connection(where) for _ in range(count)]
    for seed, connection in enumerate(connections):
        draw = random.Random(seed).randrange
        places = connection.size // length
        connection.prepare(
            (
                pack_request(const.CMD_READ, number, draw(places) * length, length)
                for number in range(_READS)
            ),
            _DATA,
            codec.CHUNK_DATA.size + length,
            depth,
            again=True,
        )
    client = Client(connections, depth)
    answered = 0
    begin = now = time.perf_counter()
    for part in (seconds / 5, seconds * 4 / 5):
        answered, begin = 0, now
        while now - begin < part:
            answered += client.go_on()
            now = time.perf_counter()
    client.finish(depth * count)
    return answered / (now - begin)


def write(where: str, length: int, depth: int, count: int, offsets: Sequence[int]) -> float:
    """Write at each offset, dealt out to ``count`` connections; return the writes a second."""
    connections = [Connection(where) for _ in range(count)]
    data = os.urandom(length)
    for first, connection in enumerate(connections):
        connection.prepare(
            (
                pack_request(const.CMD_WRITE, number, offset, length)
                for number, offset in enumerate(offsets[first::count])
            ),
            _WRITTEN,
            codec.SIMPLE_REPLY.size,
            depth,
            payload=data,
        )
    begin = time.perf_counter()
    client = Client(connections, depth)
    answered = 0
    while answered < len(offsets):
        answered += client.go_on()
    spent = time.perf_counter() - begin
    client.finish(0)
    return answered / spent


def main() -> None:
    """Do what the command line says."""
    verb, where, length, depth, count, last = sys.argv[1:]
    load = where, int(length), int(depth), int(count)
    if verb == "read":
        print(read(*load, float(last)))
    else:
        with open(last, "rb") as file:
            print(write(*load, array.array("Q", file.read())))


if __name__ == "__main__":
    main()
