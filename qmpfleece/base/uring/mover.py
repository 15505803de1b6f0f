"""Threads that read files and send what they have read, without the interpreter.

A read that the page cache answers, and the sending of its data, are two copies, which take
longer than everything else about a large read. Chains of such reads and sends are put into a
queue of io_uring; a thread enters the kernel, which makes them one after the other, there and
then. Neither has to wait: what is not in the page cache, and what a socket has no room for,
ends the chain. ::

    loop: read, send, read, send | go -> thread: one system call -> loop: sent, sent

Two threads copy on two processors, and what one has read is in its cache when it is sent.
"""

import asyncio
import ctypes
import errno
import logging
import mmap
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.uring.queues import RETRY_S, Queues

log = logging.getLogger(__name__)

#: Most requests on their way, reads and sends.
_ENTRIES: Final = 256
_OP_READ: Final = 22
_OP_SEND: Final = 26
_SQE_IO_LINK: Final = 1 << 2
#: All or, if there is no room, what there is room for; then the chain ends.
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_WAITALL | socket.MSG_NOSIGNAL
#: More than a socket with an eighth of it as its buffer takes, in bytes.
_TOO_MUCH: Final = 1 << 20
#: Of no use here, but since 6.0.
_FEAT_LINKED_FILE: Final = 1 << 12
#: Most threads.
_MAX_THREADS: Final = 4

#: What a file has of a payload: descriptor, offset, length.
Run = tuple[int, int, int]


class Mover:
    """A thread, and the requests that it makes.

    Only the loop puts requests in and takes their results.

    Raises:
        OSError: The system has no io_uring, or does not allow it.
    """

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._queues: Final = Queues(_ENTRIES, 2 * _ENTRIES)
        #: Chains: how many requests, and where in the queue they end.
        self._inbox: Final[queue.SimpleQueue[tuple[int, int]]] = queue.SimpleQueue()
        #: By number: who is told.
        self._flying: Final[dict[int, Callable[[int], None]]] = {}
        self._room = _ENTRIES
        self._number = 0
        self._thread: Final = threading.Thread(target=self._work, name="mover", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._queues.close()
            raise BlockError(errno.EAGAIN) from error

    def close(self) -> None:
        """End the thread. Nothing is on its way."""
        assert not self._flying
        self._inbox.put((0, 0))
        self._thread.join()
        self._queues.close()

    def add(
        self, runs: Sequence[Run], sock: int, reply: int, header: int, sent: Callable[[int], None]
    ) -> bool:
        """Add to the chain: read runs one behind the other, then send them with what precedes.

        Args:
            runs: Where the data is.
            sock: The descriptor of a stream socket; that and those of the runs stay open.
            reply: The address of memory that stays: a header, then room for all runs.
            header: Its bytes.
            sent: Called with the number of bytes that were sent, or the errno as a negative
                number. EAGAIN: there was no room. With all others, such as ECANCELED when
                something before it in the chain has failed, it may not even have been read.

        Returns:
            False when there is no room for it.
        """
        entries = len(runs) + 1
        if entries > self._room:
            return False
        put = self._queues.put
        address = reply + header
        for fd, offset, length in runs:
            put(_OP_READ, _SQE_IO_LINK, fd, offset, address, length, os.RWF_NOWAIT, 0)
            address += length
        self._number = number = self._number % 0xFFFFFFFF + 1
        put(_OP_SEND, _SQE_IO_LINK, sock, 0, reply, address - reply, _SEND_FLAGS, number)
        self._flying[number] = sent
        self._room -= entries
        return True

    def go(self) -> None:
        """End the chain, and have it made."""
        queues = self._queues
        queues.unlink_last()
        end = queues.publish()
        self._inbox.put((queues.unsubmitted, end))
        queues.unsubmitted = 0

    def _work(self) -> None:
        """Make one chain after the other; on the thread."""
        queues, tell = self._queues, self._loop.call_soon_threadsafe
        while True:
            count, end = self._inbox.get()
            if not count:
                return
            left = count
            while left:
                taken = queues.enter(left)
                if taken > 0:
                    left -= taken
                    # The kernel has ended the chain there: what is left is none any more.
                    queues.spoil(end, left)
                elif taken != -errno.EINTR:
                    time.sleep(RETRY_S)
            while queues.completed != end:  # a chain that was cut is made elsewhere in the kernel
                time.sleep(RETRY_S)
            tell(self._made, count)

    def _made(self, count: int) -> None:
        """Tell what has become of the next ``count`` requests."""
        self._room += count
        for number, result, _ in self._queues.take(count):
            if number:
                try:
                    self._flying.pop(number)(result)
                except Exception:  # our bug must not harm other clients
                    log.exception("a large reply went wrong")


class Movers:
    """As many as there are processors to copy on, within reason; users take turns.

    Raises:
        OSError: There is but one processor, no io_uring, it is not allowed, or not as it should.
    """

    def __init__(self) -> None:
        count = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
        if count < 2:
            raise BlockError(errno.ENOTSUP)
        _check()
        self._all: list[Mover] = []
        self._next = 0
        try:
            for _ in range(count):
                self._all.append(Mover())
        except OSError:
            self.close()
            raise

    def one(self) -> Mover:
        """Return the mover whose turn it is to get a user."""
        self._next += 1
        return self._all[self._next % len(self._all)]

    def close(self) -> None:
        """End all threads."""
        for mover in self._all:
            mover.close()


def _check() -> None:
    """See whether a send that finds too little room ends its chain, and says how far it came.

    Before Linux 5.12 the chain went on, and before 5.15 it was cut where a file system knows no
    RWF_NOWAIT; 5.19 and 6.0 did not say what they had sent.

    Raises:
        OSError: ENOTSUP: it does not.
    """
    memory = mmap.mmap(-1, _TOO_MUCH)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    queues = Queues(2, 4)
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _TOO_MUCH // 8)
        for number, length in ((1, _TOO_MUCH), (2, 1)):
            flags = _SQE_IO_LINK if number == 1 else 0
            queues.put(_OP_SEND, flags, ours.fileno(), 0, address, length, _SEND_FLAGS, number)
        queues.publish()
        queues.enter(2)
        results = {found[0]: found[1] for found in queues.take(2)}
        sent = len(theirs.recv(_TOO_MUCH, socket.MSG_DONTWAIT | socket.MSG_WAITALL))
    finally:
        ours.close()
        theirs.close()
        queues.close()
    is_sound = 0 < sent < _TOO_MUCH and results == {1: sent, 2: -errno.ECANCELED}
    if not (is_sound and queues.features & _FEAT_LINKED_FILE):
        raise BlockError(errno.ENOTSUP)
