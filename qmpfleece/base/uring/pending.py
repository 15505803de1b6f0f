"""A write that the kernel is making."""

import asyncio
import ctypes

from qmpfleece.base.eager import Resumable


class Write(Resumable[None]):
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
