"""throttle: a filter that keeps to the I/O limits of a throttle group.

Data passes as it is; reads wait for the group's leave to read, writes, zero writes and
discards for its leave to write. All else, flushes too, passes at once.
"""

from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline, status
from qmpfleece.block.child import Child
from qmpfleece.block.driver import BlockDriver, Extent, Io, Opener, Reopening, ReqFlags, register
from qmpfleece.block.perm import Role
from qmpfleece.block.throttle_group import Member, ThrottleGroup
from qmpfleece.qapi.blockdev import BlockdevOptions, BlockdevRef


class ThrottleOptions(BlockdevOptions):
    """QAPI ``BlockdevOptionsThrottle``.

    Attributes:
        throttle_group: The id of the throttle-group object.
        file: Where the data lies.
    """

    driver: Literal["throttle"]
    throttle_group: str
    file: BlockdevRef


class Throttle(BlockDriver[ThrottleOptions]):
    """The filter: a member of a group. Without limits it only forwards."""

    driver_name = "throttle"

    is_filter = True
    passes_flush = True
    strong_options: ClassVar[tuple[str, ...]] = ("throttle-group",)
    mutable_options: ClassVar[frozenset[str] | None] = frozenset(("throttle-group",))
    required_options: ClassVar[frozenset[str]] = frozenset(("throttle-group",))
    write_flags = ReqFlags.FUA | ReqFlags.WRITE_UNCHANGED
    zero_flags = write_flags | ReqFlags.MAY_UNMAP | ReqFlags.NO_FALLBACK

    _file: Child
    _group: ThrottleGroup
    _member: Member
    _next_group: ThrottleGroup | None = None

    async def open(self, opener: Opener) -> None:
        """Open ``file`` and join the group.

        Raises:
            QmpError: There is no such group.
        """
        self._file = await opener.open_child(
            "file", self.options.file, Role.FILTERED | Role.PRIMARY
        )
        name = self.options.throttle_group
        self._group = group = _find_group(opener.throttle_groups, name)
        self._member = group.join()
        self.node.length = self._file.node.length

    async def close(self) -> None:
        """Leave the group."""
        self._group.leave(self._member)

    async def reopen_prepare(self, change: Reopening[ThrottleOptions]) -> None:
        """Find the group."""
        groups = change.graph.throttle_groups
        self._next_group = _find_group(groups, change.given.throttle_group)

    def reopen_commit(self) -> None:
        """Go over to it."""
        if self._next_group is not None and self._next_group is not self._group:
            self.join(self._next_group)

    def join(self, group: ThrottleGroup) -> None:
        """Go over to another group. The node is drained."""
        self._group.leave(self._member)
        draining, self._group = self._member.draining, group
        self._member = group.join()
        self._member.draining = draining

    def drain_begin(self) -> None:
        """Hold no request back until ``drain_end``."""
        self._group.drain_begin(self._member)

    def drain_end(self) -> None:
        """Undo one ``drain_begin``."""
        self._group.drain_end(self._member)

    # -- requests -----------------------------------------------------------------------------

    def pread(self, offset: int, buf: memoryview) -> Io:
        """Read once the group lets."""
        if self._group.limited:
            return self._pread_later(offset, buf)
        return pipeline.pread(self._file, offset, buf)

    def pwrite(self, offset: int, buf: memoryview, flags: int) -> Io:
        """Write once the group lets."""
        if self._group.limited:
            return self._pwrite_later(offset, buf, flags)
        return pipeline.pwrite(self._file, offset, buf, flags)

    async def pwrite_compressed(self, offset: int, buf: memoryview) -> None:
        """Write once the group lets."""
        await self._group.admit(self._member, len(buf), write=True)
        await pipeline.pwrite_compressed(self._file, offset, buf)

    async def pwrite_zeroes(self, offset: int, length: int, flags: int) -> None:
        """Write zeroes once the group lets."""
        await self._group.admit(self._member, length, write=True)
        await pipeline.pwrite_zeroes(self._file, offset, length, flags)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Discard once the group lets."""
        await self._group.admit(self._member, length, write=True)
        await pipeline.pdiscard(self._file, offset, length)

    def is_known_data(self, offset: int, length: int) -> bool:
        """Tell what is known below."""
        return self._file.node.driver.is_known_data(offset, length)

    async def _pread_later(self, offset: int, buf: memoryview) -> None:
        await self._group.admit(self._member, len(buf), write=False)
        await pipeline.pread(self._file, offset, buf)

    async def _pwrite_later(self, offset: int, buf: memoryview, flags: int) -> None:
        await self._group.admit(self._member, len(buf), write=True)
        await pipeline.pwrite(self._file, offset, buf, flags)

    def truncate(self, length: int) -> Coroutine[Any, Any, int]:
        """Resize the file."""
        return pipeline.truncate(self._file, length)

    def block_status(
        self, offset: int, length: int, limit: int
    ) -> Coroutine[Any, Any, list[Extent]]:
        """Return the file's status."""
        return status.block_status(self._file.node, offset, length, limit)

    # -- what the graph asks ------------------------------------------------------------------

    @property
    def compresses(self) -> bool:  # type: ignore[override]  # of a driver it is a constant
        """Whether the file does."""
        return self._file.node.driver.compresses

    def exact_filename(self) -> str:
        """No plain name names the group."""
        return ""


def _find_group(groups: Mapping[str, ThrottleGroup], name: str) -> ThrottleGroup:
    if (group := groups.get(name)) is None:
        raise QmpError(f"Throttle group '{name}' does not exist")
    return group


register(Throttle, __name__)
