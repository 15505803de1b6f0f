"""A pair of queues that is shared with the kernel: requests in, completions out.

::

    put, put, publish -> submission queue --enter--> the kernel -> completion queue -> take

The queues are shared memory, read and written here without locks: of the submission queue the
kernel reads only in ``enter``, of the completion queue what lies before its tail. One thread
puts, publishes and takes; another one may enter, and then says how many completions to take.

Source: io_uring(7), io_uring_setup(2), io_uring_enter(2), and ``linux/io_uring.h``.
"""

import ctypes
import errno
import mmap
import os
import struct
import sys
from typing import Final

from qmpfleece.base.errors import BlockError

#: After what time the kernel is asked again when it could not take a request, in seconds.
RETRY_S: Final = 0.001

_SETUP: Final = 425
_ENTER: Final = 426
_REGISTER: Final = 427
_SETUP_CQSIZE: Final = 1 << 3
_FEAT_SINGLE_MMAP: Final = 1 << 0
_FEAT_NODROP: Final = 1 << 1
#: Of no use here, but since 5.6, as are the operations of reading, writing and sending.
_FEAT_RW_CUR_POS: Final = 1 << 3
_NEEDED: Final = _FEAT_SINGLE_MMAP | _FEAT_NODROP | _FEAT_RW_CUR_POS
_OFF_SQES: Final = 0x10000000
#: The kernel says in the flags of the submission queue that there is something to deliver.
_SQ_TASKRUN: Final = 1 << 2
#: struct io_uring_sqe: opcode, flags, priority, fd, offset, address, length, flags of the
#: operation, user data, the rest.
_SQE: Final = struct.Struct("=BBHiQQIIQ24x")
_SQE_SIZE: Final = 64
_OP_INVALID: Final = 255
#: Where the flags of such an entry lie.
_SQE_FLAGS: Final = 1
#: struct io_uring_cqe: user data, result, flags.
_CQE: Final = struct.Struct("=QiI")
_CQE_SIZE: Final = 16
#: struct io_uring_params: entries of both queues, flags, -, features; and where in the shared
#: memory things are: tail, flags and array of the submission queue; head, tail, entries of the
#: other.
_PARAMS: Final = struct.Struct("=4I4xI20xI8xI4xI12x2I12xI16x")


class Queues:
    """The queues, and what they have room for.

    Args:
        entries: Of the submission queue, a power of two.
        completions: Of the other.
        wish: Flags of io_uring_setup that are given up where the kernel does not know them.

    Attributes:
        granted: Whether the kernel knows them.
        features: The kernel's IORING_FEAT_* bits.
        unsubmitted: How many requests are put and not yet counted as submitted.

    Raises:
        OSError: The system has no io_uring, does not allow it, or lacks what is needed.
    """

    features: int
    _sq_tail_at: int
    _sq_flags_at: int
    _cq_head_at: int
    _cq_tail_at: int
    _cqes_at: int

    def __init__(self, entries: int, completions: int, wish: int = 0) -> None:
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise BlockError(errno.ENOSYS)
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        params = self._set_up(entries, completions, wish)
        try:
            self._map(params)
            self._checked(_ENTER, self._fd, 0, 0, 0, None, 0)  # a sandbox may forbid just this
        except BaseException:
            os.close(self._fd)
            raise
        self.unsubmitted = 0

    def _set_up(self, entries: int, completions: int, wish: int) -> bytes:
        """Make the queues and return what the kernel says of them.

        Raises:
            OSError: It refuses.
        """
        params = ctypes.create_string_buffer(_PARAMS.size)
        self.granted = True
        while True:
            flags = _SETUP_CQSIZE | (wish if self.granted else 0)
            _PARAMS.pack_into(params, 0, 0, completions, flags, 0, 0, 0, 0, 0, 0, 0, 0)
            try:
                self._fd = self._checked(_SETUP, entries, params)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.granted:
                    raise
                self.granted = False
            else:
                return params.raw

    def _map(self, params: bytes) -> None:
        """Map the queues into our memory.

        Raises:
            OSError: ENOSYS: the kernel is older than 5.6.
        """
        (
            submissions, completions, _, _, self.features,
            self._sq_tail_at, self._sq_flags_at, array,
            self._cq_head_at, self._cq_tail_at, self._cqes_at,
        ) = _PARAMS.unpack(params)  # fmt: skip
        if self.features & _NEEDED != _NEEDED:
            raise BlockError(errno.ENOSYS)
        size = max(array + submissions * 4, self._cqes_at + completions * _CQE_SIZE)
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._rings = mmap.mmap(self._fd, size, shared)
        self._sqes = mmap.mmap(self._fd, submissions * _SQE_SIZE, shared, offset=_OFF_SQES)
        self._words: memoryview[int] = memoryview(self._rings).cast("I")
        for index in range(submissions):
            self._words[array // 4 + index] = index
        self._sq_mask: int = submissions - 1
        self._cq_mask: int = completions - 1
        self._sq_tail_at //= 4
        self._sq_flags_at //= 4
        self._cq_head_at //= 4
        self._cq_tail_at //= 4
        self._sq_tail: int = self._words[self._sq_tail_at]
        self._cq_head: int = self._words[self._cq_head_at]

    def close(self) -> None:
        """Give everything back to the system. Nothing is on its way."""
        self._words.release()
        self._rings.close()
        self._sqes.close()
        os.close(self._fd)

    def register(self, opcode: int, argument: object, count: int) -> None:
        """Call io_uring_register.

        Raises:
            OSError: It has failed.
        """
        self._checked(_REGISTER, self._fd, opcode, argument, count)

    def put(
        self, opcode: int, flags: int, fd: int, offset: int, address: int, length: int,
        of_operation: int, user_data: int,
    ) -> None:  # fmt: skip
        """Add a request; there must be room. The kernel sees it once it is published."""
        tail = self._sq_tail
        _SQE.pack_into(
            self._sqes, (tail & self._sq_mask) * _SQE_SIZE,
            opcode, flags, 0, fd, offset, address, length, of_operation, user_data,
        )  # fmt: skip
        self._sq_tail = (tail + 1) & 0xFFFFFFFF
        self.unsubmitted += 1

    def unlink_last(self) -> None:
        """Make the request that was put last the last one of its chain."""
        self._sqes[((self._sq_tail - 1) & self._sq_mask) * _SQE_SIZE + _SQE_FLAGS] = 0

    def publish(self) -> int:
        """Let the kernel see what was put; return the place behind it in the queue."""
        self._words[self._sq_tail_at] = self._sq_tail
        return self._sq_tail

    def spoil(self, end: int, count: int) -> None:
        """Make the ``count`` requests before a place, none of which was submitted, fail."""
        for place in range(end - count, end):
            self._sqes[(place & self._sq_mask) * _SQE_SIZE] = _OP_INVALID

    def enter(self, count: int, flags: int = 0) -> int:
        """Call io_uring_enter; return how many were taken, or the errno as a negative number."""
        taken = int(self._syscall(_ENTER, self._fd, count, 0, flags, None, 0))
        return taken if taken >= 0 else -ctypes.get_errno()

    @property
    def has_undelivered(self) -> bool:
        """Whether the kernel waits to be asked for completions; known if that was wished for."""
        return bool(self._words[self._sq_flags_at] & _SQ_TASKRUN)

    @property
    def completed(self) -> int:
        """How many requests have ended; equals what ``publish`` returned when all before have."""
        return int(self._words[self._cq_tail_at])

    def take(self, most: int) -> list[tuple[int, int, int]]:
        """Return the next completions, ``most`` of them at most: user data, result, flags."""
        words, head = self._words, self._cq_head
        tail: int = words[self._cq_tail_at]
        count = min((tail - head) & 0xFFFFFFFF, most)
        rings, first, mask, size = self._rings, self._cqes_at, self._cq_mask, _CQE_SIZE
        found = [
            _CQE.unpack_from(rings, first + (place & mask) * size)
            for place in range(head, head + count)
        ]
        self._cq_head = words[self._cq_head_at] = (head + count) & 0xFFFFFFFF
        return found

    def _checked(self, *arguments: object) -> int:
        """Make a system call.

        Raises:
            OSError: It has failed.
        """
        result = int(self._syscall(*arguments))
        if result < 0:
            raise BlockError(ctypes.get_errno())
        return result
