"""What blkdebug does when something happens: its rules, their states, break points.

The state starts at 1. When an event happens, all its rules are tested against the state; the
error rules among them that match replace the active ones, and the new state counts afterwards.
An active rule hits the requests it matches until another event replaces it.

Source: QAPI ``BlockdevOptionsBlkdebug``; the order in which rules count as observed.
"""

import asyncio
import errno
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import ConfigDict, Field

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import SECTOR
from qmpfleece.qapi.model import Int64, Model

#: QAPI ``BlkdebugEvent``.
BlkdebugEvent: TypeAlias = Literal[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
]
EVENTS: Final[tuple[str, ...]] = get_args(BlkdebugEvent)
#: QAPI ``BlkdebugIOType``.
IoType: TypeAlias = Literal["read", "write", "write-zeroes", "discard", "flush", "block-status"]
IO_TYPES: Final[tuple[str, ...]] = get_args(IoType)
_ANY_SECTOR: Final = -1


class BlkdebugInjectErrorOptions(Model):
    """QAPI ``BlkdebugInjectErrorOptions``.

    Attributes:
        event: What makes the rule active; ``none``: opening the node.
        state: The state in which it does; 0 or None for any.
        iotype: Which requests fail; None for all but block status.
        errno: With what, EIO by default; the request is let through where it is not positive.
        sector: Only requests with the first byte of this sector, of 512 bytes, fail; -1 or
            None for all.
        once: Whether the rule is gone after one hit.
        immediately: Whether the request fails without a turn of the event loop.
    """

    model_config = ConfigDict(frozen=True)

    event: BlkdebugEvent
    state: Int64 | None = None
    iotype: IoType | None = None
    errno: Int64 | None = None
    sector: Int64 | None = None
    once: bool | None = None
    immediately: bool | None = None

    def matches(self, offset: int, length: int, iotype: str) -> bool:
        """Tell whether a request of ``length`` bytes at ``offset`` is one that fails."""
        if iotype != self.iotype and (self.iotype is not None or iotype == "block-status"):
            return False
        if self.sector is None or self.sector == _ANY_SECTOR:
            return True
        at = self.sector * SECTOR
        at = (at + (1 << 63)) % (1 << 64) - (1 << 63)  # as C computes it
        return offset <= at < offset + length

    @property
    def code(self) -> int:
        """The errno, 0 if there is none to fail with."""
        given = self.errno if self.errno is not None else errno.EIO
        return max(0, (given + (1 << 31)) % (1 << 32) - (1 << 31))


class BlkdebugSetStateOptions(Model):
    """QAPI ``BlkdebugSetStateOptions``.

    Attributes:
        event: What changes the state.
        state: The state in which it does; 0 or None for any.
        new_state: The state afterwards.
    """

    model_config = ConfigDict(frozen=True)

    event: BlkdebugEvent
    state: Int64 | None = None
    new_state: Annotated[Int64, Field(alias="new_state")]


class _Suspended(NamedTuple):
    tag: str
    future: asyncio.Future[None]


class Rules:
    """The rules of a node, and what has become of them.

    Args:
        injects: Errors to inject, in the order in which they were given.
        changes: Changes of state, likewise.

    Attributes:
        state: The state now.
    """

    def __init__(
        self,
        injects: list[BlkdebugInjectErrorOptions],
        changes: list[BlkdebugSetStateOptions],
    ) -> None:
        self.state = 1
        self._injects = injects
        self._changes = changes
        self._active: list[BlkdebugInjectErrorOptions] = []
        #: Break points: event and tag.
        self._breaks: list[tuple[str, str]] = []
        self._suspended: list[_Suspended] = []
        #: Who waits for a request to be suspended: the tag, and what is resolved then.
        self._watchers: list[_Suspended] = []

    async def happened(self, event: str) -> None:
        """Apply the rules of an event; wait here if there is a break point for it."""
        active = [rule for rule in self._injects if self._applies(rule, event)]
        if active:
            self._active = active
        for change in self._changes:
            if self._applies(change, event):
                self.state = change.new_state
                break  # of several the first one counts
        if not self._breaks:
            return
        tags = [tag for at, tag in self._breaks if at == event]
        self._breaks = [point for point in self._breaks if point[0] != event]
        loop = asyncio.get_running_loop()
        entries = [_Suspended(tag, loop.create_future()) for tag in tags]
        self._suspended += entries
        for watcher in self._watchers:
            if watcher.tag in tags and not watcher.future.done():
                watcher.future.set_result(None)
        try:
            for entry in entries:
                await entry.future
        finally:
            self._suspended = [entry for entry in self._suspended if entry not in entries]

    def _applies(
        self, rule: BlkdebugInjectErrorOptions | BlkdebugSetStateOptions, event: str
    ) -> bool:
        return rule.event == event and (not rule.state or rule.state == self.state)

    async def check(self, offset: int, length: int, iotype: str) -> None:
        """Let a request fail if a rule says so.

        Raises:
            OSError: The first active rule that matches.
        """
        matching = (rule for rule in self._active if rule.matches(offset, length, iotype))
        rule = next(matching, None)
        if rule is None or not rule.code:
            return  # one without an errno hides those behind it all the same
        if rule.once:
            # By identity: there may be equal rules.
            self._active = [other for other in self._active if other is not rule]
            self._injects = [other for other in self._injects if other is not rule]
        if not rule.immediately:
            await asyncio.sleep(0)
        raise BlockError(rule.code)

    # -- break points -------------------------------------------------------------------------

    def add_break(self, event: str, tag: str) -> None:
        """Suspend the next request that an event happens in.

        Raises:
            OSError: ENOENT: there is no such event.
        """
        if event not in EVENTS:
            raise BlockError(errno.ENOENT)
        self._breaks.append((event, tag))

    def remove_break(self, tag: str) -> None:
        """Remove the break points of that tag, and resume what they have suspended.

        Raises:
            OSError: ENOENT: there is nothing of that tag.
        """
        kept = [point for point in self._breaks if point[1] != tag]
        found = len(kept) < len(self._breaks)
        self._breaks = kept
        for entry in self._waiting(tag):
            entry.future.set_result(None)
            found = True
        if not found:
            raise BlockError(errno.ENOENT)

    def resume(self, tag: str) -> None:
        """Let one suspended request go on.

        Raises:
            OSError: ENOENT: none is suspended under that tag.
        """
        waiting = self._waiting(tag)
        if not waiting:
            raise BlockError(errno.ENOENT)
        waiting[0].future.set_result(None)

    def is_suspended(self, tag: str) -> bool:
        """Tell whether a request is suspended under that tag."""
        return bool(self._waiting(tag))

    async def wait_suspended(self, tag: str) -> None:
        """Wait until a request is suspended under that tag. Cancellation-safe."""
        while not self.is_suspended(tag):  # by the time that we run it may be gone
            watcher = _Suspended(tag, asyncio.get_running_loop().create_future())
            self._watchers.append(watcher)
            try:
                await watcher.future
            finally:
                self._watchers.remove(watcher)

    def _waiting(self, tag: str) -> list[_Suspended]:
        return [e for e in self._suspended if e.tag == tag and not e.future.done()]
