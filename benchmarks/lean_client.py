"""An NBD client that costs little: requests and replies a batch at a time.

::

    lean_client.py read URI LENGTH DEPTH SECONDS SEED

reads LENGTH bytes at random places, DEPTH requests at once. Prints how many were answered a
second; the first fifth of the time does not count. ::

    lean_client.py write URI LENGTH DEPTH OFFSETS

writes LENGTH bytes at each of the offsets in the file OFFSETS, 64 bits of the machine each, in
that order. Says when it is ready, and waits until nobody has the file locked; then prints when
its first request was sent and the last reply was there.

Imports nothing of the benchmarks, for it runs as a program of its own.
"""

import array
import fcntl
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Iterable
from typing import BinaryIO, Final

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

    def prepare(self, requests: Iterable[bytes], begins: bytes, reply: int, depth: int) -> None:
        """Say what is to be sent.

        Args:
            requests: All of one size.
            begins: How each reply begins.
            reply: The size of each, in bytes.
            depth: How many are in flight.
        """
        every = tuple(requests)
        self.count: Final = len(every)
        self._request: Final = len(every[0])
        # As many as there may be room for behind the last one.
        self._requests: Final = memoryview(b"".join((*every, *every[:depth])))
        self._next = 0
        self._begins: Final = begins
        self._reply: Final = reply
        self._memory: Final = bytearray(depth * reply)
        self._have = 0

    def send(self, count: int) -> None:
        """Send the next ones; after the last comes the first."""
        at = self._next
        self._socket.sendall(self._requests[at * self._request : (at + count) * self._request])
        self._next = (at + count) % self.count

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

    def close(self, left: int) -> None:
        """Take the replies that are still to come, and say goodbye."""
        while left:
            left -= self.receive()
        self._socket.sendall(pack_request(const.CMD_DISC, 0))
        self._socket.close()


def _read(connection: Connection, seconds: float) -> float:
    """Go on reading for so long; return the rate."""
    begin = now = time.perf_counter()
    count = 0
    while now - begin < seconds:
        if answered := connection.receive():
            connection.send(answered)
            count += answered
        now = time.perf_counter()
    return count / (now - begin)


def read(where: str, length: int, depth: int, seconds: float, seed: int) -> float:
    """Read at random places; return the reads a second."""
    connection = Connection(where)
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
    )
    connection.send(depth)
    _read(connection, seconds / 5)
    rate = _read(connection, seconds * 4 / 5)
    connection.close(depth)
    return rate


def write(where: str, length: int, depth: int, offsets: BinaryIO) -> tuple[float, float]:
    """Write at each offset once the file can be locked; return begin and end, in seconds."""
    connection = Connection(where)
    data = os.urandom(length)
    connection.prepare(
        (
            pack_request(const.CMD_WRITE, number, offset, length) + data
            for number, offset in enumerate(array.array("Q", offsets.read()))
        ),
        _WRITTEN,
        codec.SIMPLE_REPLY.size,
        depth,
    )
    print("ready", flush=True)
    fcntl.flock(offsets, fcntl.LOCK_SH)
    begin = time.perf_counter()
    sent = min(depth, connection.count)
    left = connection.count
    connection.send(sent)
    while left:
        answered = connection.receive()
        left -= answered
        if more := min(answered, connection.count - sent):
            connection.send(more)
            sent += more
    end = time.perf_counter()
    connection.close(0)
    return begin, end


def main() -> None:
    """Do what the command line says."""
    verb, where, length, depth, *more = sys.argv[1:]
    if verb == "read":
        seconds, seed = more
        print(read(where, int(length), int(depth), float(seconds), int(seed)))
    else:
        with open(more[0], "rb") as file:
            print(*write(where, int(length), int(depth), file))


if __name__ == "__main__":
    main()
