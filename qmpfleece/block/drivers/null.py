"""null-co and null-aio: a disk of any size that stores nothing.

Differs: QEMU without ``read-zeroes`` leaves the reader's memory as it was; we always give
zeroes, since that memory may have held another client's data.
"""

import asyncio
from typing import ClassVar, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import GIB, SECTOR, align_up
from qmpfleece.block.driver import BlockDriver, Extent, Opener, ReqFlags, Status, register
from qmpfleece.qapi.blockdev import BlockdevOptions
from qmpfleece.qapi.model import Int64, Uint64


class NullCoOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsNull``.

    Attributes:
        size: Bytes; 1 GiB by default.
        latency_ns: What each request takes at least, in nanoseconds.
        read_zeroes: Whether the node says that it reads as zeroes.
    """

    driver: Literal["null-co"]
    size: Int64 | None = None
    latency_ns: Uint64 | None = None
    read_zeroes: bool | None = None


class NullAioOptions(NullCoOptions):
    """The same for the driver ``null-aio``."""

    driver: Literal["null-aio"]  # type: ignore[assignment]  # another literal, by design


class NullCo(BlockDriver[NullCoOptions]):
    """Takes everything, gives zeroes."""

    driver_name = "null-co"

    is_protocol = True
    strong_options: ClassVar[tuple[str, ...]] = ("size", "read-zeroes")
    write_flags = ReqFlags.FUA
    discards = False
    mutable_options: ClassVar[frozenset[str] | None] = frozenset()
    #: Not NO_FALLBACK: in QEMU it has no way to zero that is faster than to write.
    zero_flags = ReqFlags.FUA | ReqFlags.MAY_UNMAP

    async def open(self, opener: Opener) -> None:
        """Set the size."""
        size = self.options.size if self.options.size is not None else GIB
        if size < 0:
            raise QmpError("Parameter 'size' expects a non-negative number below 2^64")
        latency_ns = self.options.latency_ns or 0
        if latency_ns >= 1 << 63:
            raise QmpError("latency-ns is invalid")
        self._latency_s = latency_ns / 1e9
        self.node.length = align_up(size, SECTOR)

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Fill with zeroes."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        buf[:] = bytes(len(buf))

    async def pwrite(self, offset: int, buf: memoryview, flags: int) -> None:
        """Drop the data."""
        await self._delay()

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Do nothing."""
        await self._delay()

    async def flush(self) -> None:
        """Do nothing."""
        await self._delay()

    async def _delay(self) -> None:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)

    async def block_status(self, offset: int, length: int, limit: int) -> list[Extent]:
        """All is zero under ``read-zeroes``; else nothing is there, as QEMU has it."""
        flags = Status.OFFSET_VALID
        if self.options.read_zeroes:
            flags |= Status.ZERO | Status.ALLOCATED
        return [Extent(length, flags, offset, self.node)]

    def exact_filename(self) -> str:
        """``null-co://``, unless an option decides otherwise."""
        return "" if self.options.size is not None else f"{self.driver_name}://"

    async def allocated_size(self) -> int | None:
        """Nothing is stored."""
        return 0


class NullAio(NullCo):
    """The same; QEMU completes it through another path."""

    driver_name = "null-aio"


register(NullCo, __name__)
register(NullAio, __name__)
