"""Buffered writes by Linux's io_uring: no thread of ours, and none of the interpreter's time.

Writes of one turn of the event loop are submitted with one system call. The kernel makes them
at once where the file system promises not to wait (XFS, btrfs); else its threads do, those to
one file one after the other, and an eventfd tells the loop. ::

    pwrite -> submission queue --io_uring_enter--> kernel threads -> completion queue -> eventfd

The queues are shared memory, read and written here without locks: of the submission queue the
kernel reads only in ``io_uring_enter``, of the completion queue what lies before its tail.

Source: io_uring(7), io_uring_setup(2), io_uring_enter(2), and ``linux/io_uring.h``.
"""

import asyncio
import ctypes
import errno
import mmap
import os
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from qmpfleece.base.eager import Resumable

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

#: After what time the kernel is asked again when it could not take a submission.
_RETRY_S: Final = 0.001

_SETUP: Final = 425
_ENTER: Final = 426
_REGISTER: Final = 427
_REGISTER_EVENTFD: Final = 4
_REGISTER_IOWQ_MAX_WORKERS: Final = 19
#: Kernel threads at once. A file that hangs holds one, so this many may hang before other
#: files suffer; by default it would be four a processor.
_WORKERS: Final = 256
_SETUP_CQSIZE: Final = 1 << 3
#: Completions are delivered when we ask for them, by the thread that submits, since 6.1. By
#: default the kernel interrupts our processor for each, and on a virtual machine that costs
#: more than a small write.
_SETUP_SINGLE_ISSUER: Final = 1 << 12
_SETUP_DEFER_TASKRUN: Final = 1 << 13
#: The kernel says in the flags of the submission queue that there is something to deliver.
_SETUP_TASKRUN_FLAG: Final = 1 << 9
_SQ_TASKRUN: Final = 1 << 2
_DEFERRED: Final = _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN | _SETUP_TASKRUN_FLAG
_ENTER_GETEVENTS: Final = 1 << 0
_FEAT_SINGLE_MMAP: Final = 1 << 0
_FEAT_NODROP: Final = 1 << 1
#: Of no use here, but since 5.6, as is _OP_WRITE.
_FEAT_RW_CUR_POS: Final = 1 << 3
_NEEDED: Final = _FEAT_SINGLE_MMAP | _FEAT_NODROP | _FEAT_RW_CUR_POS
_OFF_SQES: Final = 0x10000000
_OP_WRITE: Final = 23
#: struct io_uring_sqe: opcode, flags, priority, fd, offset, address, length, flags of the
#: operation, user data, the rest.
_SQE: Final = struct.Struct("=BBHiQQIIQ24x")
#: struct io_uring_cqe: user data, result, flags.
_CQE: Final = struct.Struct("=QiI")
#: struct io_uring_params: entries of both queues, flags, -, features; and where in the shared
#: memory things are: tail, flags and array of the submission queue; head, tail, entries of the
#: other.
_PARAMS: Final = struct.Struct("=4I4xI20xI8xI4xI12x2I12xI16x")


class _Write(Resumable[None]):
    """A write on its way: where it goes, and what is left of it.

    It can't be cancelled: the kernel works on the request's memory and file.
    """

    __slots__ = ("_memory", "address", "buf", "fd", "left", "offset")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, buf: memoryview, offset: int
    ) -> None:
        asyncio.Future.__init__(self, loop=loop)  # at once: this is made for every write
        self._stepper = None
        self.fd = fd
        self.offset = offset
        self.left = len(buf)
        self.buf = buf
        #: Keeps the memory in its place.
        self._memory = memory = ctypes.c_char.from_buffer(buf)
        self.address = ctypes.addressof(memory)

    def advance(self, written: int) -> None:
        """Go on behind what the kernel has written at first."""
        self.offset += written
        self.address += written
        self.left -= written

    def cancel(self, msg: object = None) -> bool:
        """Refuse: asyncio cancels the waiting task when the write has ended."""
        return False


class Ring:
    """A pair of queues, of one event loop.

    Args:
        on_thread: Makes a write, given file, memory and offset, on a thread of ours, for when the
            system has none left for the kernel.

    Raises:
        OSError: The system has no io_uring, does not allow it, or lacks what is needed.
    """

    def __init__(
        self, on_thread: "Callable[[int, memoryview, int], asyncio.Future[None]]"
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._on_thread: Final = on_thread
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        params = self._set_up()
        self._eventfd = -1
        try:
            self._map(params.raw)
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._checked(
                _REGISTER,
                self._fd,
                _REGISTER_EVENTFD,
                ctypes.byref(ctypes.c_int(self._eventfd)),
                1,
            )
            # Before Linux 5.15 it can't be said, and the default stays.
            workers = (ctypes.c_uint32 * 2)(_WORKERS, 0)
            self._syscall(_REGISTER, self._fd, _REGISTER_IOWQ_MAX_WORKERS, workers, 2)
            self._checked(_ENTER, self._fd, 0, 0, 0, None, 0)  # a sandbox may forbid just this
        except BaseException:
            self._close_files()
            raise
        self._writes: list[_Write | None] = [None] * _MAX_IN_FLIGHT
        self._free = list(range(_MAX_IN_FLIGHT))
        self._waiting: deque[_Write] = deque()
        self._unsubmitted = 0
        self._submit_later: asyncio.Handle | None = None
        self._watching: asyncio.Handle | None = None
        self._until_ns = 0
        self._loop.add_reader(self._eventfd, self._completed)

    def _set_up(self) -> "ctypes.Array[ctypes.c_char]":
        """Make the queues and return what the kernel says of them.

        Raises:
            OSError: It refuses.
        """
        params = ctypes.create_string_buffer(_PARAMS.size)
        for more in (_DEFERRED, 0):
            flags = _SETUP_CQSIZE | more
            _PARAMS.pack_into(params, 0, 0, _MAX_IN_FLIGHT, flags, 0, 0, 0, 0, 0, 0, 0, 0)
            try:
                self._fd = self._checked(_SETUP, _ENTRIES, params)
            except OSError as error:
                if error.errno != errno.EINVAL or not more:
                    raise
            else:
                self._deferred = bool(more)
                break
        return params

    def _map(self, params: bytes) -> None:
        """Map the queues into our memory.

        Raises:
            OSError: ENOSYS: the kernel is older than 5.6.
        """
        (
            submissions, completions, _, _, features, self._sq_tail_at, self._sq_flags_at, array,
            self._cq_head_at, self._cq_tail_at, self._cqes_at,
        ) = _PARAMS.unpack(params)  # fmt: skip
        if features & _NEEDED != _NEEDED:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        size = max(array + submissions * 4, self._cqes_at + completions * _CQE.size)
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._rings = mmap.mmap(self._fd, size, shared)
        self._sqes = mmap.mmap(self._fd, submissions * _SQE.size, shared, offset=_OFF_SQES)
        self._words = memoryview(self._rings).cast("I")
        for index in range(submissions):
            self._words[array // 4 + index] = index
        self._sq_mask = submissions - 1
        self._cq_mask = completions - 1
        self._sq_tail_at //= 4
        self._sq_flags_at //= 4
        self._cq_head_at //= 4
        self._cq_tail_at //= 4
        self._sq_tail = self._words[self._sq_tail_at]
        self._cq_head = self._words[self._cq_head_at]

    def close(self) -> None:
        """Give everything back to the system. No write is on its way."""
        assert len(self._free) == _MAX_IN_FLIGHT
        if self._submit_later is not None:
            self._submit_later.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self._loop.remove_reader(self._eventfd)
        self._words.release()
        self._rings.close()
        self._sqes.close()
        self._close_files()

    def _close_files(self) -> None:
        os.close(self._fd)
        if self._eventfd >= 0:
            os.close(self._eventfd)

    def pwrite(self, fd: int, buf: memoryview, offset: int) -> "asyncio.Future[None]":
        """Write all of ``buf`` to a file.

        Args:
            fd: To be kept open until the end.
            buf: Writable memory, not empty, which must not change until the end.
            offset: Bytes.
        """
        write = _Write(self._loop, fd, buf, offset)
        if not self._free or self._unsubmitted == _ENTRIES:
            self._waiting.append(write)
            return write
        self._prepare(write)
        if self._unsubmitted == _BATCH:
            self._submit()
        elif self._submit_later is None:
            self._submit_later = self._loop.call_soon(self._submit_rest)
        return write

    def _prepare(self, write: _Write) -> None:
        slot = self._free.pop()
        self._writes[slot] = write
        _SQE.pack_into(
            self._sqes, (self._sq_tail & self._sq_mask) * _SQE.size,
            _OP_WRITE, 0, 0, write.fd, write.offset, write.address, write.left,
            0, slot,
        )  # fmt: skip
        self._sq_tail = (self._sq_tail + 1) & 0xFFFFFFFF
        self._unsubmitted += 1

    def _submit_rest(self) -> None:
        """Submit what is left of a turn, and what has waited for room."""
        self._submit_later = None
        while True:
            while self._waiting and self._free and self._unsubmitted < _ENTRIES:
                self._prepare(self._waiting.popleft())
            if not self._unsubmitted or not self._submit() or not self._waiting:
                break

    def _submit(self) -> bool:
        """Tell the kernel of what is prepared; return whether it has taken all of it."""
        self._words[self._sq_tail_at] = self._sq_tail
        while self._unsubmitted:
            taken = self._syscall(_ENTER, self._fd, self._unsubmitted, 0, 0, None, 0)
            if taken <= 0:
                if taken and ctypes.get_errno() == errno.EINTR:
                    continue
                # EAGAIN, EBUSY: it is short of memory.
                if self._submit_later is None:
                    self._submit_later = self._loop.call_later(_RETRY_S, self._submit_rest)
                return False
            self._unsubmitted -= taken
        if self._deferred and len(self._free) >= _MAX_IN_FLIGHT - _FEW:
            self._until_ns = time.monotonic_ns() + _PATIENCE_NS
            if self._watching is None:
                self._watching = self._loop.call_soon(self._watch)
        return True

    def _watch(self) -> None:
        """See if the kernel has completed something; if not, let others run and look again."""
        self._watching = None
        if self._words[self._sq_flags_at] & _SQ_TASKRUN:
            self._completed()
        elif len(self._free) < _MAX_IN_FLIGHT and time.monotonic_ns() < self._until_ns:
            os.sched_yield()
            self._watching = self._loop.call_soon(self._watch)

    def _completed(self) -> None:
        """Deliver what the kernel has completed."""
        words = self._words
        if self._deferred:
            # To deliver makes the eventfd ready once more, so it is read afterwards. What came
            # in between shows in the flags, which may be out of date: they are asked once.
            self._deliver()
            self._read_event()
            if words[self._sq_flags_at] & _SQ_TASKRUN:
                self._deliver()
        else:
            self._read_event()
        while (head := self._cq_head) != (tail := words[self._cq_tail_at]):
            while head != tail:
                at = self._cqes_at + (head & self._cq_mask) * _CQE.size
                slot, result, _ = _CQE.unpack_from(self._rings, at)
                head = (head + 1) & 0xFFFFFFFF
                self._cq_head = words[self._cq_head_at] = head
                write = self._writes[slot]
                assert write is not None
                self._writes[slot] = None
                self._free.append(slot)
                if result == write.left:
                    write.settle(None, None)
                elif result > 0:
                    write.advance(result)
                    self._waiting.append(write)
                elif result == -errno.ECANCELED:
                    self._do_otherwise(write)
                else:
                    code = -result or errno.ENOSPC
                    write.settle(None, OSError(code, os.strerror(code)))
        self._submit_rest()

    def _read_event(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return  # it was seen without

    def _deliver(self) -> None:
        """Have the kernel put what has ended into the completion queue."""
        self._syscall(_ENTER, self._fd, 0, 0, _ENTER_GETEVENTS, None, 0)

    def _do_otherwise(self, write: _Write) -> None:
        """Make a write that the kernel has no thread for: the limit of processes is reached."""
        rest = write.buf[len(write.buf) - write.left :]
        call = self._on_thread(write.fd, rest, write.offset)
        call.add_done_callback(lambda done: write.settle(None, done.exception()))

    def _checked(self, *arguments: object) -> int:
        """Make a system call.

        Raises:
            OSError: It has failed.
        """
        result = int(self._syscall(*arguments))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result
