"""Copies an export into a file: only what holds data, several requests in flight.

One task asks for block status and cuts what must be read into pieces; a fixed number of
tasks, each with one buffer, read and write the pieces. So memory is bounded, however large
or fragmented the disk is.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from qmpfleece.base.units import GIB, MIB
from qmpfleece.nbdclient.sparse import SparseFile
from qmpfleece.nbdproto import const

#: Bytes of one read request.
PIECE: Final = MIB
#: Requests in flight.
REQUESTS: Final = 16
#: Bytes that one block status request asks about.
STATUS_SPAN: Final = GIB

#: Runs of one context: length in bytes and the context's flags.
Runs: TypeAlias = list[tuple[int, int]]


class Source(Protocol):
    """What a copy needs of an NBD client."""

    @property
    def size(self) -> int:
        """The length of the export in bytes."""

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Fill ``buf``."""

    async def block_status(self, offset: int, length: int) -> Mapping[str, Runs]:
        """Return the runs of each context; each list covers at least one byte."""


@dataclass(slots=True)
class Progress:
    """How far a copy is.

    Attributes:
        size: Bytes of the disk.
        settled: Bytes of the disk that are done: copied, or nothing to copy.
        copied: Bytes that were read and written.
    """

    size: int = 0
    settled: int = 0
    copied: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be copied.

    Attributes:
        allocation: The export tells which parts are zeroes.
        bitmap: Copy only what this context calls dirty; everything if empty. The rest is zeroed,
            unless the file is to be updated.
    """

    allocation: bool
    bitmap: str = ""


async def copy(source: Source, sink: SparseFile, plan: Plan, progress: Progress) -> None:
    """Copy what ``plan`` says; ``progress`` is kept up to date.

    Cancellation-safe. A write to the file may still be under way then; closing the file
    waits for it.

    Raises:
        OSError: Reading or writing has failed.
        NbdProtocolError: The server broke the protocol.
    """
    progress.size = source.size
    pieces: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue(REQUESTS)
    count = min(REQUESTS, source.size // PIECE + 1)

    async def plan_pieces() -> None:
        async for offset, length, action in _actions(source, plan):
            if action == _COPY:
                for start in range(offset, offset + length, PIECE):
                    await pieces.put((start, min(PIECE, offset + length - start)))
                continue
            if action == _ZERO or not sink.update:
                await sink.zero(offset, length)
            progress.settled += length
        for _ in range(count):
            await pieces.put(None)

    async def copy_pieces() -> None:
        buf = memoryview(bytearray(min(PIECE, source.size)))
        while (piece := await pieces.get()) is not None:
            offset, length = piece
            await source.pread(offset, buf[:length])
            await sink.write(offset, buf[:length])
            progress.copied += length
            progress.settled += length

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(plan_pieces())
            for _ in range(count):
                group.create_task(copy_pieces())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


_SKIP: Final = 0
_ZERO: Final = 1
_COPY: Final = 2


async def _actions(source: Source, plan: Plan) -> AsyncIterator[tuple[int, int, int]]:
    """Yield ``(offset, length, action)`` for the whole export, in order."""
    offset = 0
    while offset < source.size:
        span = min(STATUS_SPAN, source.size - offset)
        if not plan.allocation and not plan.bitmap:
            yield offset, span, _COPY
            offset += span
            continue
        status = await source.block_status(offset, span)
        for length, action in _joined(status, plan, span):
            yield offset, length, action
            offset += length


def _joined(status: Mapping[str, Runs], plan: Plan, span: int) -> list[tuple[int, int]]:
    """Return runs ``(length, action)``, as far as all contexts reach, at most ``span`` bytes."""
    zero_runs = _reach(status[const.CONTEXT_BASE_ALLOCATION] if plan.allocation else [], span)
    dirty_runs = _reach(status[plan.bitmap] if plan.bitmap else [], span)
    joined: list[tuple[int, int]] = []
    position = 0
    zeroes, dirty = iter(zero_runs), iter(dirty_runs)
    zero_end, zero = next(zeroes, (span, 0))
    dirty_end, wanted = next(dirty, (span, const.STATE_DIRTY))
    limit = min(zero_runs[-1][0] if zero_runs else span, dirty_runs[-1][0] if dirty_runs else span)
    while position < limit:
        end = min(zero_end, dirty_end)
        action = _COPY
        if not wanted & const.STATE_DIRTY:
            action = _SKIP
        elif zero & const.STATE_ZERO:
            action = _ZERO
        joined.append((end - position, action))
        position = end
        if zero_end == position:
            zero_end, zero = next(zeroes, (span, 0))
        if dirty_end == position:
            dirty_end, wanted = next(dirty, (span, 0))
    return joined


def _reach(runs: Runs, span: int) -> list[tuple[int, int]]:
    """Return ``(end, flags)`` of each run; a run may reach beyond what was asked about."""
    ends = []
    position = 0
    for length, flags in runs:
        position = min(position + length, span)
        ends.append((position, flags))
        if position == span:
            break
    return ends
