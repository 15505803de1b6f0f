"""Buffered writes by Linux's io_uring: no thread of ours, and none of the interpreter's time.

Writes of one turn of the event loop are submitted with one system call. The kernel makes them
at once where the file system promises not to wait (XFS, btrfs); else its threads do, those to
one file one after the other, and an eventfd tells the loop. ::

    pwrite -> submission queue --io_uring_enter--> kernel threads -> completion queue -> eventfd
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from qmpfleece.base.errors import BlockError
from qmpfleece.base.stepper import Resumable
from qmpfleece.base.uring.queues import RETRY_S, Queues

#: Entries of the submission queue; when it is full it is submitted.
_ENTRIES: Final = 256
#: Most writes on their way; further ones wait here.
_MAX_IN_FLIGHT: Final = 4096
#: So many writes are submitted at once rather than at the end of the loop's turn, so that the
#: kernel's threads work while the loop does.
_BATCH: Final = 8

#: So few writes in flight are watched, for so long, before the loop goes to sleep: to be woken
#: takes longer than most of them. What waits for more of them has no haste.
_FEW: Final = 2
_PATIENCE_NS: Final = 200_000

_REGISTER_EVENTFD: Final = 4
_REGISTER_IOWQ_MAX_WORKERS: Final = 19
#: Kernel threads at once. A file that hangs holds one, so this many may hang before other
#: files suffer; by default it would be four a processor.
_WORKERS: Final = 256
#: Completions are delivered when we ask for them, by the thread that submits, since 6.1. By
#: default the kernel interrupts our processor for each, and on a virtual machine that costs
#: more than a small write.
_SETUP_SINGLE_ISSUER: Final = 1 << 12
_SETUP_DEFER_TASKRUN: Final = 1 << 13
_SETUP_TASKRUN_FLAG: Final = 1 << 9
_DEFERRED: Final = _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN | _SETUP_TASKRUN_FLAG
_ENTER_GETEVENTS: Final = 1 << 0
_OP_WRITE: Final = 23

#: What the kernel says of writes that it has not made, though nothing is wrong with them: it has
#: no thread, the limit of processes being reached; it is short of memory; it was interrupted.
_OTHERWISE: Final = frozenset({errno.ECANCELED, errno.EAGAIN, errno.EINTR})

_memory_of: Final = ctypes.c_char.from_buffer
_address_of: Final = ctypes.addressof


class Write(Resumable[None]):
    """A write on its way: where it goes, and what is left of it."""

    __slots__ = ("_memory", "address", "buf", "fd", "left", "offset")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, buf: memoryview, offset: int
    ) -> None:
        Resumable.__init__(self, loop)
        self.fd = fd
        self.offset = offset
        self.left = len(buf)
        self.buf = buf
        #: Keeps the memory in its place.
        self._memory = memory = _memory_of(buf)
        self.address = _address_of(memory)

    def advance(self, written: int) -> None:
        """Go on behind what the kernel has written at first."""
        self.offset += written
        self.address += written
        self.left -= written


class Ring:
    """A pair of queues, of one event loop.

    Args:
        on_thread: Makes a write, given file, memory and offset, on a thread of ours, for when the
            system has none left for the kernel.

    Raises:
        OSError: The system has no io_uring, does not allow it, or lacks what is needed.
    """

    def __init__(self, on_thread: Callable[[int, memoryview, int], Resumable[None]]) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._on_thread: Final = on_thread
        self._queues: Final = Queues(_ENTRIES, _MAX_IN_FLIGHT, _DEFERRED)
        self._deferred: Final = self._queues.granted
        self._eventfd = -1
        try:
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            eventfd = ctypes.byref(ctypes.c_int(self._eventfd))
            self._queues.register(_REGISTER_EVENTFD, eventfd, 1)
            with contextlib.suppress(OSError):  # before Linux 5.15; the default stays
                workers = (ctypes.c_uint32 * 2)(_WORKERS, 0)
                self._queues.register(_REGISTER_IOWQ_MAX_WORKERS, workers, 2)
        except BaseException:
            self._close_files()
            raise
        self._writes: list[Write | None] = [None] * _MAX_IN_FLIGHT
        self._free = list(range(_MAX_IN_FLIGHT))
        self._waiting: deque[Write] = deque()
        self._submit_later: asyncio.Handle | None = None
        self._watching: asyncio.Handle | None = None
        self._until_ns = 0
        self._loop.add_reader(self._eventfd, self._completed)

    def close(self) -> None:
        """Give everything back to the system. No write is on its way."""
        assert len(self._free) == _MAX_IN_FLIGHT
        if self._submit_later is not None:
            self._submit_later.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self._loop.remove_reader(self._eventfd)
        self._close_files()

    def _close_files(self) -> None:
        self._queues.close()
        if self._eventfd >= 0:
            os.close(self._eventfd)

    def pwrite(self, fd: int, buf: memoryview, offset: int) -> Resumable[None]:
        """Write all of ``buf`` to a file.

        Args:
            fd: To be kept open until the end.
            buf: Writable memory, not empty, which must not change until the end.
            offset: Bytes.
        """
        write = Write(self._loop, fd, buf, offset)
        queues = self._queues
        if not self._free or queues.unsubmitted == _ENTRIES:
            self._waiting.append(write)
            return write
        self._prepare(write)
        if queues.unsubmitted == _BATCH:
            self._submit()
        elif self._submit_later is None:
            self._submit_later = self._loop.call_soon(self._submit_rest)
        return write

    def _prepare(self, write: Write) -> None:
        slot = self._free.pop()
        self._writes[slot] = write
        self._queues.put(_OP_WRITE, 0, write.fd, write.offset, write.address, write.left, 0, slot)

    def _submit_rest(self) -> None:
        """Submit what is left of a turn, and what has waited for room."""
        self._submit_later = None
        while True:
            while self._waiting and self._free and self._queues.unsubmitted < _ENTRIES:
                self._prepare(self._waiting.popleft())
            if not self._queues.unsubmitted or not self._submit() or not self._waiting:
                break

    def _submit(self) -> bool:
        """Tell the kernel of what is prepared; return whether it has taken all of it."""
        queues = self._queues
        queues.publish()
        while queues.unsubmitted:
            taken = queues.enter(queues.unsubmitted)
            if taken <= 0:
                if taken == -errno.EINTR:
                    continue
                # EAGAIN, EBUSY: it is short of memory.
                if self._submit_later is None:
                    self._submit_later = self._loop.call_later(RETRY_S, self._submit_rest)
                return False
            queues.unsubmitted -= taken
        if self._deferred and len(self._free) >= _MAX_IN_FLIGHT - _FEW:
            self._until_ns = time.monotonic_ns() + _PATIENCE_NS
            if self._watching is None:
                self._watching = self._loop.call_soon(self._watch)
        return True

    def _watch(self) -> None:
        """See if the kernel has completed something; if not, let others run and look again."""
        self._watching = None
        if self._queues.has_undelivered:
            self._completed()
        elif len(self._free) < _MAX_IN_FLIGHT and time.monotonic_ns() < self._until_ns:
            os.sched_yield()
            self._watching = self._loop.call_soon(self._watch)

    def _completed(self) -> None:
        """Deliver what the kernel has completed."""
        queues = self._queues
        if self._deferred:
            # To deliver makes the eventfd ready once more, so it is read afterwards. What came
            # in between shows in the flags, which may be out of date: they are asked once.
            self._deliver()
            self._read_event()
            if queues.has_undelivered:
                self._deliver()
        else:
            self._read_event()
        while ready := queues.take(_MAX_IN_FLIGHT):
            for slot, result, _ in ready:
                write = self._writes[slot]
                assert write is not None
                self._writes[slot] = None
                self._free.append(slot)
                if result == write.left:
                    write.settle(None, None)
                elif result > 0:
                    write.advance(result)
                    self._waiting.append(write)
                elif -result in _OTHERWISE:
                    self._do_otherwise(write)
                else:
                    write.settle(None, BlockError(-result or errno.ENOSPC))
        self._submit_rest()

    def _read_event(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return  # it was seen without

    def _deliver(self) -> None:
        """Have the kernel put what has ended into the completion queue."""
        self._queues.enter(0, _ENTER_GETEVENTS)

    def _do_otherwise(self, write: Write) -> None:
        """Make a write on a thread of ours."""
        rest = write.buf[len(write.buf) - write.left :]
        call = self._on_thread(write.fd, rest, write.offset)
        call.add_done_callback(lambda done: write.settle(None, done.exception()))
