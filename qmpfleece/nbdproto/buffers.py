"""Memory that is used again: receive buffers and large payloads.

Fresh memory costs page faults, more than the copy that it saves. So large buffers come
from a bounded pool. They are page-aligned, as direct I/O wants them.
"""

import mmap
from typing import Final

from qmpfleece.base.units import KIB, MIB

#: Buffers from this size on are worth keeping, in bytes.
POOLED_SIZE: Final = 32 * KIB
#: Where in its page a payload lies well, in bytes: not 1 to 31 bytes further behind than where
#: it is copied from has it, since AMD's Zen 3 then copies at a quarter of its speed (REP MOVSB).
#: Page cache and sockets have their data at the beginning of pages.
FAST_PLACE: Final = 64


class Buffer:
    """A piece of memory with a count of its users; it starts with one.

    Attributes:
        view: The whole memory; at least as long as was asked for.
        users: How many hold it. The last to release gives the memory back.
    """

    __slots__ = ("_pool", "users", "view")

    def __init__(self, view: memoryview, pool: "BufferPool") -> None:
        self.view = view
        self.users = 1
        self._pool = pool

    def release(self) -> None:
        """Drop one use. The caller must not touch the memory afterwards."""
        self.users -= 1
        if not self.users:
            self._pool._give(self.view)


class BufferPool:
    """Keeps released buffers for the next taker.

    Args:
        limit: Most memory kept while nobody uses it, in bytes.
    """

    def __init__(self, limit: int = 64 * MIB) -> None:
        self._limit = limit
        self._kept = 0
        self._free: dict[int, list[memoryview]] = {}

    @property
    def kept(self) -> int:
        """Bytes that wait for a taker."""
        return self._kept

    def take(self, size: int) -> Buffer:
        """Return a buffer of at least ``size`` bytes with undefined content."""
        if size < POOLED_SIZE:
            return Buffer(memoryview(bytearray(size)), self)
        # Eight sizes an octave waste little and still meet again.
        unit = 1 << max((size - 1).bit_length() - 3, 12)
        room = -(-size // unit) * unit
        free = self._free.get(room)
        if free:
            self._kept -= room
            return Buffer(free.pop(), self)
        return Buffer(memoryview(mmap.mmap(-1, room)), self)

    def _give(self, view: memoryview) -> None:
        room = len(view)
        if room >= POOLED_SIZE and self._kept + room <= self._limit:
            self._kept += room
            self._free.setdefault(room, []).append(view)
