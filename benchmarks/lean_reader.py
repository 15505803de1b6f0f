"""An NBD client that only reads, and costs little: requests and replies a batch at a time.

::

    lean_reader.py URI LENGTH DEPTH SECONDS SEED

reads LENGTH bytes at random places, DEPTH requests at once. Prints how many were answered a
second; the first fifth of the time does not count. Imports nothing of the benchmarks, for it
runs as a program of its own.
"""

import random
import socket
import struct
import sys
import time
from typing import Final

from qmpfleece.nbdclient import uri
from qmpfleece.nbdproto import codec, const
from qmpfleece.nbdproto.client import ClientHandshake, pack_request

#: How many requests are made in advance; then they are sent again.
_REQUESTS: Final = 1 << 15
_REQUEST: Final = codec.REQUEST.size
_HEADER: Final = codec.CHUNK_DATA.size
#: How each reply begins: one chunk of data, and done.
_DATA: Final = struct.pack(
    ">IHH", const.STRUCTURED_REPLY_MAGIC, const.REPLY_FLAG_DONE, const.REPLY_TYPE_OFFSET_DATA
)


class Reader:
    """A connection, and its reads.

    Args:
        where: The export's URI: on a unix socket.
        length: Of each read, in bytes.
        depth: How many are in flight.
        seed: Chooses the places.
    """

    def __init__(self, where: str, length: int, depth: int, seed: int) -> None:
        place = uri.parse(where)
        self._socket: Final = socket.socket(socket.AF_UNIX)
        self._socket.connect(place.path)
        machine = ClientHandshake(place.name)
        while machine.result is None:
            self._socket.sendall(machine.feed(self._socket.recv(4096)))
        draw = random.Random(seed).randrange
        places = machine.result.size // length
        requests = b"".join(
            pack_request(const.CMD_READ, number, draw(places) * length, length)
            for number in range(_REQUESTS)
        )
        # As many as there may be room for behind the last one.
        self._requests: Final = memoryview(requests + requests[: depth * _REQUEST])
        self._next = 0
        self._depth: Final = depth
        self._reply: Final = _HEADER + length
        self._memory: Final = bytearray(depth * self._reply)
        self._have = 0
        self._send(depth)

    def _send(self, count: int) -> None:
        at = self._next
        self._socket.sendall(self._requests[at * _REQUEST : (at + count) * _REQUEST])
        self._next = (at + count) % _REQUESTS

    def read(self, seconds: float) -> float:
        """Read for so long; return the rate."""
        begin = now = time.perf_counter()
        count = 0
        while now - begin < seconds:
            answered = self._receive()
            if answered:
                self._send(answered)
                count += answered
            now = time.perf_counter()
        return count / (now - begin)

    def close(self) -> None:
        """Take the replies that are still to come, and say goodbye."""
        left = self._depth
        while left:
            left -= self._receive()
        self._socket.sendall(pack_request(const.CMD_DISC, 0))
        self._socket.close()

    def _receive(self) -> int:
        """Receive what is there; return how many replies became whole."""
        memory, size = memoryview(self._memory), self._reply
        received = self._socket.recv_into(memory[self._have :])
        if not received:
            raise EOFError("the server has hung up")
        self._have += received
        count = self._have // size
        end = count * size
        for at in range(0, self._have - len(_DATA) + 1, size):  # the one that is not whole, too
            if self._memory[at : at + len(_DATA)] != _DATA:
                raise ValueError(f"not a reply of data alone: {self._memory[at : at + _HEADER]!r}")
        memory[: self._have - end] = memory[end : self._have]
        self._have -= end
        return count


def main() -> None:
    """Do what the command line says."""
    where, length, depth, seconds, seed = sys.argv[1:]
    reader = Reader(where, int(length), int(depth), int(seed))
    reader.read(float(seconds) / 5)
    print(reader.read(float(seconds) * 4 / 5))
    reader.close()


if __name__ == "__main__":
    main()
